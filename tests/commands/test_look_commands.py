"""`ddetr info` and `ddetr visualize` from the outside."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ddetr.main import main


@pytest.fixture(scope="module")
def model_folder(saved_small) -> str:
    return str(saved_small)


@pytest.fixture
def photo(samples) -> str:
    return str(samples / "BloodImage_00000.jpg")


def test_info_tells_what_the_model_is(model_folder, capsys):
    assert main(["info", model_folder, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["variant"] == "refine_twostage" and report["queries"] == 20 and len(report["labels"]) == 5
    assert report["image"] == {"height": 58, "width": 96}
    assert sum(part["parameters"] for part in report["parts"]) == report["parameters"]
    assert sum(part["gflops"] for part in report["parts"]) == pytest.approx(report["gflops"])
    assert report["gmacs"] == report["gflops"] / 2
    assert report["training"] is None
    assert main(["info", model_folder, "--size", "128x96"]) == 0
    printed = capsys.readouterr().out
    assert "128x96" in printed and f"{report['parameters']:,}" in printed and "first stage" in printed


def test_info_tells_how_it_was_trained(model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "trained")
    (folder / "settings.yaml").write_text("data: datasets/cells\nlearning_rate: 0.0002\n")
    (folder / "trainer_state.json").write_text('{"global_step": 3120, "epoch": 60.0}')
    (folder / "metrics.json").write_text('{"AP": 0.5834, "AP50": 0.844, "per_class": {}}')
    assert main(["info", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "3,120 steps, 60 epochs, on datasets/cells, learning rate 0.0002" in printed
    assert "AP 0.583, AP50 0.844" in printed


def test_info_has_a_model_of_its_own(capsys):
    assert main(["info"]) == 0
    assert "Platelets, RBC, WBC" in capsys.readouterr().out


def test_visualize_draws_the_best_detections_the_proposals_and_a_token(model_folder, photo, tmp_path, capsys):
    words = ["visualize", model_folder, photo, "--output", str(tmp_path), "--top", "1", "--threshold", "0"]
    assert main(words) == 0
    names = [Path(path).name for path in capsys.readouterr().out.removeprefix("Written: ").strip().split(", ")]
    assert sorted(names) == sorted(file.name for file in tmp_path.iterdir())
    assert names[2:] == ["token_looks.png", "proposals.png"]
    assert names[0].endswith("_looks.png") and names[1] == names[0].replace("looks", "refinement")
    assert all(Image.open(tmp_path / name).width > 800 for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["visualize", "MODEL", "PHOTO", "--query", "20"], "There is no query 20: the detector has 20"),
        (["visualize", "MODEL", "PHOTO", "--query", "0", "--point", "900,1"], "outside the image of 640x480"),
        (["visualize", "MODEL", "PHOTO", "--query", "0", "--level", "9"], "There is no level 9"),
        (["visualize", "MODEL", "PHOTO", "PHOTO"], "one is drawn at a time"),
        (["visualize", "MODEL", "PHOTO", "--threshold", "1"], "lower --threshold or name a --query"),
        (["info", "MODEL", "--size", "16x16"], "fewer than num_queries=20"),
        (["info", "nowhere"], "There is no model folder nowhere: `ddetr convert` makes one of a published"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(model_folder, photo, tmp_path, capsys, words, message):
    words = [{"MODEL": model_folder, "PHOTO": photo}.get(word, word) for word in words]
    words += ["--output", str(tmp_path / "out")] if words[0] == "visualize" else []
    assert main([*words, *([] if words[0] == "info" else ["--device", "cpu"])]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and told.count("\n") == 0
    assert not list(tmp_path.glob("out/*"))
