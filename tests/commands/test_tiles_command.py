"""`--tiles` and `--tile-size` of the verbs that take them: one way of cutting, whoever asks."""

import json

import numpy as np
import pytest
from PIL import Image
from support.data_sets import coco_content
from support.small_detector import save_small_detector

from ddetr.main import main
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.inference.tiles import Tiling

NAMES = ("can", "carton", "milk bottle")
WORDS = ["--tiles", "2x2", "--tile-overlap", "0.3", "--tile-nms", "0.6"]
TILING = Tiling((2, 2), overlap=0.3, nms_threshold=0.6)


@pytest.fixture(scope="module")
def model(module_folder):
    return save_small_detector(module_folder("model"), {"shortest_edge": 64, "longest_edge": 96}, list(NAMES))


@pytest.fixture(scope="module")
def photos(module_folder):
    folder = module_folder("photos")
    for number, (width, height) in enumerate([(200, 150), (160, 160)]):
        pixels = np.random.default_rng(number).integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{number}.png")
    return folder


def test_detect_and_batch_find_what_the_detector_finds(model, photos, tmp_path):
    expected = Detector(model, "cpu", tiling=TILING).detect(sorted(photos.glob("*.png")))
    assert main(["detect", str(model), str(photos), "--threshold", "0", "--output", str(tmp_path / "a"), *WORDS]) == 0
    detected = json.loads((tmp_path / "a" / "detections.json").read_text())
    words = ["batch", str(model), str(photos), "--output", str(tmp_path / "b.jsonl"), "--workers", "1"]
    assert main([*words, *WORDS]) == 0
    batched = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    whole = Detector(model, "cpu").detect(sorted(photos.glob("*.png")))
    for one, other, found, uncut in zip(detected, batched, expected, whole, strict=True):
        assert len(one["boxes"]) == len(found) > 0
        assert one["scores"] == pytest.approx(found.scores.tolist(), abs=1e-5)
        assert one["boxes"] == other["boxes"] and one["labels"] == other["labels"]
        assert (np.asarray(one["boxes"]) <= [one["width"], one["height"]] * 2).all()
        assert len(uncut) != len(found)


def test_a_batch_goes_on_with_the_tiles_it_began_with(model, photos, tmp_path, capsys):
    words = ["batch", str(model), str(photos), "--output", str(tmp_path / "b.jsonl"), "--workers", "1"]
    (photos / "bad.png").write_bytes(b"no image")
    assert main([*words, *WORDS, "--error-threshold", "0"]) == 2  # stopped: its parts stay
    capsys.readouterr()
    assert main([*words, "--tile-size", "100"]) == 2
    assert "tiling" in capsys.readouterr().err
    assert main(words) == 2
    assert "tiling" in capsys.readouterr().err
    (photos / "bad.png").unlink()


def test_evaluate_and_inspect_take_them_too(model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deformable_detr_refine.evaluation.report.report.write_report", lambda *args, **options: None)
    content = coco_content([("0.png", (200, 150), [(0, 10, 10, 40, 30)]), ("1.png", (160, 160), [(2, 0, 0, 90, 90)])])
    (photos / "annotations.json").write_text(json.dumps(content))
    data = str(photos / "annotations.json")
    words = ["evaluate", str(model), data, "--split", "train", "--output", str(tmp_path / "e"), "--batch-size", "3"]
    assert main([*words, *WORDS]) == 0
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert metrics["about"]["tiling"] == str(TILING)
    found = {image["image_id"] for image in json.loads((tmp_path / "e" / "detections.json").read_text())}
    assert found == {7, 8}
    capsys.readouterr()
    assert main(["data", "inspect", data, "--tiles", "2x2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiles"]["train"]["images"] == 10
    assert main(["data", "inspect", data, "--tile-size", "200"]) == 2
    assert "nothing would be cut" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tile-size", "200"], "no smaller than the largest image, 200x150"),
        (["--tile-overlap", "0.5"], "There are no tiles"),
        (["--tiles-only"], "There are no tiles"),
        (["--tiles", "1x1"], "cuts nothing"),
        (["--tiles", "3"], "no grid of tiles"),
        (["--tiles", "2x2", "--tile-size", "64"], "not allowed with"),
        (["--tile-size", "5"], "too small"),
        (["--tile-size", "64", "--tile-overlap", "0.95"], "0 to 0.9"),
    ],
)
def test_what_makes_no_tiles_is_one_sentence(words, told, model, photos, tmp_path, capsys):
    try:
        status = main(["detect", str(model), str(photos / "0.png"), "--output", str(tmp_path / "f"), *words])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert told in capsys.readouterr().err and not (tmp_path / "f").exists()


def test_tiles_larger_than_every_image_are_refused_by_batch_before_it_begins(model, photos, tmp_path, capsys):
    words = ["batch", str(model), str(photos), "--output", str(tmp_path / "b.jsonl"), "--workers", "1", "--tile-size"]
    assert main([*words, "200"]) == 2
    assert "no smaller than the largest image, 200x150" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert main([*words, "199"]) == 0  # one of the two is cut
