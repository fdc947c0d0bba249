"""`ddetr info`, `ddetr benchmark` and `ddetr visualize` from the outside."""

import json
import shutil

import pytest
import torch
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


def test_info_and_benchmark_have_a_model_of_their_own(capsys):
    assert main(["info"]) == 0
    assert "Platelets, RBC, WBC" in capsys.readouterr().out


def test_benchmark_says_when_the_machine_is_busy(model_folder, capsys, monkeypatch):
    words = ["benchmark", model_folder, "--runs", "1", "--size", "64x64", "--backends", "torch", "--dtypes", "float32"]
    for idle, threads, told in ((0.4, "1", "too low"), (1.2, "2", "--threads 1"), (64.0, "1", None)):
        monkeypatch.setattr("deformable_detr_refine.machine.idle_cores", lambda idle=idle: idle)
        before = torch.get_num_threads()
        assert main([*words, "--threads", threads]) == 0
        torch.set_num_threads(before)
        output = capsys.readouterr().out
        assert told in output if told else "busy" not in output


def test_benchmark_times_every_backend_that_runs_here(model_folder, capsys):
    assert main(["benchmark", model_folder, "--runs", "2", "--batch-size", "2", "--size", "64x96", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["rows"]
    assert {"torch", "reference"} <= {row["backend"] for row in rows}
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert len(row["seconds"]) == 2
        assert row["images_per_second"]["fastest"] == 2 / min(row["seconds"])
        assert row["ratio"] == min(rows[0]["seconds"]) / min(row["seconds"])
    assert main(["benchmark", model_folder, "--runs", "1", "--backends", "torch", "--dtypes", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (header,) = (place for place, line in enumerate(lines) if line.startswith("backend"))
    assert lines[header + 1].split()[:2] == ["torch", "float32"]


def test_visualize_draws_the_best_detections_the_proposals_and_a_token(model_folder, photo, tmp_path, capsys):
    words = ["visualize", model_folder, photo, "--output", str(tmp_path), "--top", "1", "--threshold", "0"]
    assert main(words) == 0
    names = [line.rpartition("/")[2] for line in capsys.readouterr().out.split()]
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
        (["benchmark", "MODEL", "--backends", "triton"], "The backend triton does not run on cpu"),
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
