"""The embedded detector in int8: the same cells, a folder like any other, and refusals before work is lost."""

import json
from pathlib import Path

import pytest

from ddetr.main import main
from deformable_detr_refine.files import sha256_of
from deformable_detr_refine.inference.detections import Detections
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.modeling.int8_layers import why_not_int8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not_int8()), reason=str(why_not_int8())),
]
ROOT = Path(__file__).parents[2]
CELLS = ROOT / "samples" / "blood-cells"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, samples) -> Path:
    output = tmp_path_factory.mktemp("int8") / "cells"
    images = [str(samples / f"BloodImage_00{number}.jpg") for number in ("000", "053", "222")]
    assert main(["export", "--to", "int8", str(CELLS), str(output), "--images", *images]) == 0
    return output


def test_it_finds_the_same_cells(folder, samples):
    proof = json.loads((folder / "int8.json").read_text())
    assert proof["int8_ap"] >= proof["model_ap"] - 0.005
    assert proof["weights_sha256"] == sha256_of(CELLS / "model.safetensors")
    photo = samples / "BloodImage_00053.jpg"
    (ours,), (theirs,) = (Detector(str(model), "cpu").detect([photo], threshold=0.4) for model in (folder, CELLS))
    assert isinstance(ours, Detections)
    assert isinstance(theirs, Detections)
    sure = theirs.scores > 0.5
    assert sure.sum() > 5
    for box, label in zip(theirs.boxes[sure], theirs.labels[sure], strict=True):
        same = (abs(ours.boxes - box).max(1) < 5) & (ours.labels == label)  # pixels
        assert same.sum() == 1


def test_the_commands_take_it(folder, samples, tmp_path, capsys):
    assert main(["detect", str(folder), str(samples / "BloodImage_00053.jpg"), "--output", str(tmp_path)]) == 0
    assert main(["benchmark", str(folder), "--size", "96x128", "--runs", "1"]) == 0
    assert "\nint8 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["export", "--to", "onnx", "{model}", "out.onnx"], "is in int8, which ddetr export does not take"),
        (
            ["export", "--to", "int8", "{model}", "out", "--images", "{photo}"],
            "is in int8, which ddetr export does not",
        ),
        (["export", "--to", "int8", "{model}", "{model}", "--force", "--images", "{photo}"], "is what is read"),
        (["convert", "--to", "mmdet", "{model}", "out.pth"], "is in int8, which ddetr convert does not take"),
        (["info", "{model}"], "Operations in int8 are not counted"),
        (["train", "--model", "{model}", "--data", "{samples}", "--output_dir", "out"], "in int8, which training does"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_what_does_not_take_it_says_so(folder, samples, command, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    places = {
        "model": folder,
        "photo": samples / "BloodImage_00053.jpg",
        "samples": samples.parent / "annotations" / "blood_cells.json",
    }
    assert main([word.format(**places) for word in command]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_vnni_it_is_refused_before_the_work(folder, samples, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    data = str(samples.parent / "annotations" / "blood_cells.json")
    assert main(["export", "--to", "int8", str(CELLS), str(tmp_path / "out"), "--data", data]) == 2
    assert "int8 needs a processor with AVX-512 VNNI" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is in int8 and cannot run here: int8 needs a processor with AVX-512 VNNI"):
        load_detector(str(folder))
