"""`ddetr verify`: what it hands to MMDetection, what it concludes, and once the whole with the real MMDetection."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddetr.main import main
from ddetr.verify import sample_images
from deformable_detr_refine import DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion import CheckpointError, convert_mmdet_checkpoint
from deformable_detr_refine.conversion.mmdet.names import name_2x_from_3x
from deformable_detr_refine.conversion.mmdet_config.text import read_config_text
from deformable_detr_refine.conversion.proof import inputs as verify_inputs
from deformable_detr_refine.conversion.proof.difference import Difference
from deformable_detr_refine.conversion.proof.environment import MMDETECTION, mmdet_folder, set_up_mmdet
from deformable_detr_refine.conversion.proof.inputs import prepare
from deformable_detr_refine.conversion.proof.job import detector_settings
from deformable_detr_refine.conversion.proof.our_predictions import OurModel
from deformable_detr_refine.conversion.proof.process import run_mmdet
from deformable_detr_refine.conversion.proof.report import OwnResize, Report, RoundTrip, SamePixels

SAME = Difference(
    starts=30, queries=30, logits=1e-6, boxes=1e-7, scores=0.0, box_pixels=1e-3, agreeing=100, at_the_cut=0,
    detections=100, box_tolerance=0.1, tolerance=1e-4,
)  # fmt: skip
GOOD = SamePixels("a.jpg", (800, 1067), 2e-7, SAME)


@pytest.fixture
def config(tiny_config) -> dict:
    return read_config_text(tiny_config["refine_twostage"], "the config")


def test_settings_are_plain_values_and_come_back_the_same(config):
    settings = detector_settings(config, "the config")
    assert ast.literal_eval(repr(settings)) == settings
    assert [step["type"] for step in settings["test_pipeline"]] == ["LoadImageFromFile", "Resize", "PackDetInputs"]
    # mmcv takes a tuple for a size, and a list for something else.
    assert settings["test_pipeline"][1]["scale"] == (1333, 800)
    assert settings["model"]["encoder"] == config["model"]["encoder"]


@pytest.mark.parametrize("name", ["subprocess.Popen", "torch.hub.load", "os", "ResNext", 3])
def test_no_type_but_the_model_s_own_parts_reaches_mmdetection(config, name):
    config["model"]["neck"] = {"type": name, "args": "touch /tmp/x"}
    with pytest.raises(CheckpointError, match=re.escape(f"the config: model.neck has the type {name!r}")):
        detector_settings(config, "the config")


def test_nothing_is_fetched_from_elsewhere(config):
    config["model"]["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": "https://example.org/a.pth"}
    config["model"]["pretrained"] = "https://example.org/a.pth"
    config["test_dataloader"]["dataset"]["pipeline"][0]["backend_args"] = {"backend": "http"}
    assert "example.org" not in repr(detector_settings(config, "the config"))
    assert "http" not in repr(detector_settings(config, "the config"))


def test_computed_values_and_unknown_steps_are_refused(tiny_config):
    text = tiny_config["refine_twostage"]
    config = read_config_text(text.replace("num_queries=30", "num_queries=len('x' * 30)"), "the config")
    with pytest.raises(CheckpointError, match=r"model.num_queries \(line \d+\) is not a literal"):
        detector_settings(config, "the config")
    config = read_config_text(text, "the config")
    config["test_dataloader"]["dataset"]["pipeline"].insert(1, {"type": "Mosaic"})
    with pytest.raises(CheckpointError, match="does not know the test pipeline's step 'Mosaic'"):
        detector_settings(config, "the config")


def test_mmdetection_gets_tensors_only(runner_checkpoint, save, tmp_path):
    content = runner_checkpoint("refine_twostage")
    inputs = prepare(save(content), None, tmp_path, print)
    handed = torch.load(inputs.run.checkpoint, weights_only=True)
    assert handed.keys() == {"state_dict"} and handed["state_dict"].keys() == content["state_dict"].keys()
    assert inputs.exported.keys() == inputs.weights.keys()
    assert all(torch.equal(inputs.exported[name], tensor) for name, tensor in content["state_dict"].items())


def test_a_2x_checkpoint_is_handed_on_in_3x_form(tiny_weights, save, tmp_path):
    weights = tiny_weights["refine_twostage"]
    said = []
    inputs = prepare(save({name_2x_from_3x(k) or k: v for k, v in weights.items()}), None, tmp_path, said.append)
    assert inputs.weights.keys() == weights.keys()
    assert inputs.run.settings == inputs.exported_run.settings
    assert any("no config of MMDetection 3.x" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (GOOD, "PASS"),
        (replace(GOOD, pixel_values=1e-3), "FAIL"),
        (replace(GOOD, difference=replace(SAME, logits=1e-3)), "FAIL"),
        (replace(GOOD, difference=replace(SAME, boxes=float("nan"))), "FAIL"),
        (replace(GOOD, difference=replace(SAME, agreeing=99)), "FAIL"),
        (replace(GOOD, difference=replace(SAME, starts=29)), "FAIL"),
        (replace(GOOD, difference=replace(SAME, starts=29), tie=1e-6), "TIE"),
        (replace(GOOD, difference=replace(SAME, starts=29), tie=1e-2), "FAIL"),
        (OwnResize("a.jpg", (800, 1067), (800, 1067), 1, 0.2, 97, 100), "ok"),
        (OwnResize("a.jpg", (800, 1067), (800, 1067), 100, 2.0, 97, 100), "FAIL"),
        (OwnResize("a.jpg", (800, 1066), (800, 1067), None, None, 97, 100), "FAIL"),
        (RoundTrip(241, 241, 0.0, 0.0, 1e-4), "PASS"),
        (RoundTrip(240, 241, 0.0, 0.0, 1e-4), "FAIL"),
        (RoundTrip(241, 241, 0.0, float("nan"), 1e-4), "FAIL"),
    ],
)
def test_verdicts(row, verdict):
    assert row.verdict == verdict
    report = Report("x.pth", {"MMDetection": "3.1.0"}, [GOOD])
    if isinstance(row, SamePixels):
        report.same_pixels.append(row)
    elif isinstance(row, OwnResize):
        report.own_resize.append(row)
        assert "Alike: the same label" in str(report)
    else:
        report.round_trip = row
    assert report.passed == (verdict != "FAIL")
    assert str(report).endswith("FAIL" if verdict == "FAIL" else "PASS") and verdict in str(report)
    assert json.loads(json.dumps(report.to_dict()))["passed"] == report.passed


def test_ties_alone_prove_nothing():
    tie = replace(GOOD, difference=replace(SAME, starts=29), tie=0.0)
    assert not Report("x.pth", {}, [tie]).passed


def test_score_gap_of_starts_that_one_side_left_out(detector, pixels):
    mask = torch.ones_like(pixels[:1, 0], dtype=torch.int64)
    side = OurModel(detector, DeformableDetrRefineImageProcessor(), 100)
    (ours,) = side.predict(pixels[:1], mask, [(128, 160)])
    with torch.no_grad():
        out = detector(pixels[:1], mask, output_proposals=True)
    scores, order = out.encoder_logits[0, :, 0].sort(descending=True)
    kept = detector.config.num_queries
    references = ours.references.copy()
    references[kept - 1] = out.encoder_pred_boxes[0, order[kept]]
    gap = side.score_gap(pixels[:1], mask, 0, ours, replace(ours, references=references))
    assert gap == pytest.approx(float(scores[kept - 1] - scores[kept]), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pth", "--images", "{samples}/10.jpg"], "There is no checkpoint missing.pth"),
        (["missing.pth", "--images", "https://example.org/a.jpg"], "reads images from files only"),
        (["missing.pth", "--images", "nothing.jpg"], "nothing.jpg"),
    ],
)
def test_errors_come_in_one_line(arguments, message, samples, capsys):
    assert main(["verify", *(argument.format(samples=samples) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_failure_of_mmdetection_tells_its_last_lines(tmp_path, monkeypatch):
    """Its log stands in a folder that is thrown away."""
    runner = tmp_path / "runner.py"
    runner.write_text("for n in range(20):\n    print('line', n, flush=True)\nprint()\nraise SystemExit('it broke')")
    monkeypatch.setattr("deformable_detr_refine.conversion.proof.process._RUNNER", runner)
    with pytest.raises(ChildProcessError) as caught:
        run_mmdet(tmp_path, [], [], tmp_path)
    told = str(caught.value)
    assert "status 1" in told and "--keep DIR" in told and str(tmp_path) not in told
    assert told.endswith(" | ".join([*(f"line {n}" for n in range(6, 20)), "it broke"]))


def test_images_of_the_checkout_are_the_default(samples, monkeypatch, capsys):
    assert sample_images() == [str(samples / "10.jpg"), str(samples / "BloodImage_00000.jpg")]
    assert main(["verify", "missing.pth"]) == 2
    assert "There is no checkpoint missing.pth" in capsys.readouterr().err
    monkeypatch.setattr("ddetr.verify.find_spec", lambda name: None)
    assert main(["verify", "missing.pth"]) == 2
    assert capsys.readouterr().err.startswith("ddetr verify: error: Give images with --images")


@pytest.fixture(scope="module")
def real_mmdet() -> Path:
    """The real MMDetection, in the user's cache as `ddetr verify` puts it there."""
    if not mmdet_folder().is_dir():
        # Any of the packages; a folder that does not exist, so nothing is written when it is found.
        probe = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", MMDETECTION[2]]
        done = subprocess.run(probe, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1:]}")
    return set_up_mmdet()


@pytest.fixture
def quick_checkpoint(runner_checkpoint, save):
    """quick_checkpoint(variant) writes a tiny checkpoint whose images are resized to a quarter of the usual side."""

    def write(variant: str) -> Path:
        content = runner_checkpoint(variant)
        text, count = re.subn(r"scale=\(\s*1333,\s*800,\s*\)", "scale=(333, 200)", content["meta"]["cfg"])
        assert count
        return save({**content, "meta": {**content["meta"], "cfg": text}})

    return write


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "refine", "refine_twostage"])
def test_the_real_mmdetection_agrees(variant, real_mmdet, samples, quick_checkpoint, tiny_weights, capsys):
    images = [str(samples / name) for name in ("10.jpg", "BloodImage_00000.jpg")]
    status = main(["verify", str(quick_checkpoint(variant)), "--images", *images, "--round-trip", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == 0 and report["passed"]
    assert [row["shape"] for row in report["same_pixels"]] == [[267, 200], [200, 267], [267, 267], [267, 267]]
    assert max(row["difference"]["logits"] for row in report["same_pixels"]) <= 1e-4
    assert max(row["grey_levels"] for row in report["own_resize"]) <= 1
    assert report["round_trip"]["equal"] == report["round_trip"]["tensors"] == len(tiny_weights[variant])


@pytest.mark.slow
def test_a_wrong_conversion_is_found(real_mmdet, samples, quick_checkpoint, tmp_path, capsys, monkeypatch):
    def convert_wrongly(checkpoint, output, **options):
        report = convert_mmdet_checkpoint(checkpoint, output, **options)
        weights = load_file(output / "model.safetensors")
        weights["class_heads.1.bias"][2] += 1e-3
        save_file(weights, output / "model.safetensors", {"format": "pt"})
        return report

    monkeypatch.setattr(verify_inputs, "convert_mmdet_checkpoint", convert_wrongly)
    keep = tmp_path / "keep"
    arguments = ["--images", str(samples / "10.jpg"), "--round-trip", "--json", "--keep", str(keep)]
    assert main(["verify", str(quick_checkpoint("refine_twostage")), *arguments]) == 1
    report = json.loads(capsys.readouterr().out)
    (row,), trip = report["same_pixels"], report["round_trip"]
    assert row["verdict"] == trip["verdict"] == "FAIL"
    assert row["difference"]["logits"] == pytest.approx(1e-3, rel=0.02)
    assert trip["tensors"] - trip["equal"] == 1
    assert {"model", "mmdet.log", "mmdet0.npz", "mmdet1.npz"} <= {file.name for file in keep.iterdir()}
