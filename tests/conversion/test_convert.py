"""MMDetection's checkpoints -> a model folder -> MMDetection's checkpoint: the same values, whatever the form."""

import json
import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion import convert_mmdet_checkpoint, export_mmdet_checkpoint, open_checkpoint
from deformable_detr_refine.conversion.mmdet.names import NAMES_3X, is_2x, name_2x_from_3x, name_3x_from_2x

VARIANTS = ("plain", "refine", "refine_twostage")
GOLDENS = [f"{size}_{variant}" for size in ("tiny", "r50") for variant in VARIANTS]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Names, dtypes, shapes and every bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def converted(module_folder, tiny_weights, tiny_config):
    """variant -> (model folder, report), converted from what a Runner saves."""
    folders = {}
    for variant in VARIANTS:
        root = module_folder(variant)
        meta = {"cfg": tiny_config[variant], "dataset_meta": {"CLASSES": tuple("abcde")}, "mmengine_version": "0.10.7"}
        torch.save({"meta": meta, "state_dict": tiny_weights[variant]}, root / "epoch_12.pth")
        folders[variant] = root / "model", convert_mmdet_checkpoint(root / "epoch_12.pth", root / "model")
    return folders


@pytest.mark.parametrize("name", GOLDENS)
def test_names_go_both_ways(shapes, name):
    for theirs in shapes(name):
        older = name_2x_from_3x(theirs) or theirs
        assert (name_3x_from_2x(older) or older) == theirs
        assert NAMES_3X.from_common(NAMES_3X.to_common(theirs)) == theirs
    assert not is_2x(shapes(name)) and is_2x(name_2x_from_3x(theirs) or theirs for theirs in shapes(name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_is_identity(converted, tiny_weights, tmp_path, variant):
    folder, report = converted[variant]
    assert report.variant == variant and report.assumed == [] and report.notes == []
    export_mmdet_checkpoint(folder, tmp_path / "back.pth")
    back = open_checkpoint(tmp_path / "back.pth")
    assert_same(back["state_dict"], tiny_weights[variant])
    assert list(back["state_dict"]) == list(tiny_weights[variant])
    assert back["meta"]["dataset_meta"]["CLASSES"] == tuple("abcde")
    again = convert_mmdet_checkpoint(tmp_path / "back.pth", tmp_path / "again")
    assert again.assumed == [] and again.labels == report.labels
    assert_same(load_file(tmp_path / "again" / "model.safetensors"), load_file(folder / "model.safetensors"))
    for file in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "again" / file).read_text() == (folder / file).read_text()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_folder_loads_with_every_weight(converted, variant):
    folder, report = converted[variant]
    model, found = DeformableDetrRefineForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    assert model.config.variant == variant and model.config.id2label == dict(enumerate("abcde"))
    assert (model.config.num_queries, model.config.encoder_layers, model.config.backbone) == (30, 2, "resnet18")
    assert DeformableDetrRefineImageProcessor.from_pretrained(folder).size["longest_edge"] == 1333
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(os.listdir(folder))
    modes = {file.stat().st_mode for file in folder.iterdir()}
    assert len(modes) == 1
    card = (folder / "README.md").read_text()
    assert report.sha256 in card and "epoch_12.pth" in card and "0.10.7" in card and "None are known" in card
    json.dumps(report.to_dict())


def renamed_to_2x(weights):
    return OrderedDict((name_2x_from_3x(name) or name, tensor) for name, tensor in weights.items())


FORMS = {
    "2.x names": lambda c: {"meta": {"CLASSES": tuple("abcde")}, "state_dict": renamed_to_2x(c["state_dict"])},
    "module prefix": lambda c: {**c, "state_dict": {f"module.{k}": v for k, v in c["state_dict"].items()}},
    "bare": lambda c: c["state_dict"],
    "published": lambda c: {"meta": c["meta"], "state_dict": c["state_dict"]},
    "averaged": lambda c: {
        **c,
        "ema_state_dict": {"steps": torch.tensor(3), "module.level_embed": torch.zeros(4, 256)},
    },
    "legacy": lambda c: c,
    "parameters": lambda c: {k: torch.nn.Parameter(v, v.is_floating_point()) for k, v in c["state_dict"].items()},
}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_gives_the_same_model(converted, runner_checkpoint, save, tmp_path, form):
    # One variant per form suffices: names, files and prefixes know nothing of variants.
    variant = VARIANTS[list(FORMS).index(form) % 3]
    path = save(FORMS[form](runner_checkpoint(variant)), _use_new_zipfile_serialization=form != "legacy")
    report = convert_mmdet_checkpoint(path, tmp_path / "out", num_queries=30)
    assert report.variant == variant
    assert_same(
        load_file(tmp_path / "out" / "model.safetensors"), load_file(converted[variant][0] / "model.safetensors")
    )


def test_raw_weights(runner_checkpoint, save, tmp_path):
    content = runner_checkpoint("refine")
    raw = {name: tensor + 1 for name, tensor in content["state_dict"].items()}
    ema = {"steps": torch.tensor(100), **{f"module.{name}": tensor for name, tensor in raw.items()}}
    path = save({**content, "ema_state_dict": ema})
    report = convert_mmdet_checkpoint(path, tmp_path / "out", raw_weights=True)
    assert "raw" in report.weights_from
    export_mmdet_checkpoint(tmp_path / "out", tmp_path / "back.pth")
    assert_same(open_checkpoint(tmp_path / "back.pth")["state_dict"], raw)


def test_half_precision_is_widened_and_said(runner_checkpoint, save, tmp_path):
    content = runner_checkpoint("refine_twostage")
    half = {k: v.half() if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    report = convert_mmdet_checkpoint(save({**content, "state_dict": half}), tmp_path / "out")
    assert any("float16" in note for note in report.notes)
    export_mmdet_checkpoint(tmp_path / "out", tmp_path / "back.pth")
    back = open_checkpoint(tmp_path / "back.pth")["state_dict"]
    assert_same(back, {k: v.float() if v.is_floating_point() else v for k, v in half.items()})


def test_one_class(runner_checkpoint, save, tmp_path):
    content = runner_checkpoint("refine_twostage")
    weights = {k: v[:1].clone() if "cls_branches" in k else v for k, v in content["state_dict"].items()}
    meta = {
        "cfg": content["meta"]["cfg"].replace("num_classes=5", "num_classes=1"),
        "dataset_meta": {"classes": "cell"},
    }
    report = convert_mmdet_checkpoint(save({"meta": meta, "state_dict": weights}), tmp_path / "out")
    assert report.labels == ["cell"]
    export_mmdet_checkpoint(tmp_path / "out", tmp_path / "back.pth")
    assert_same(open_checkpoint(tmp_path / "back.pth")["state_dict"], weights)


def test_azure_folder(converted, runner_checkpoint, save, tmp_path):
    content = runner_checkpoint("refine_twostage")
    artifacts = tmp_path / "mlflow" / "artifacts"
    artifacts.mkdir(parents=True)
    (tmp_path / "mlflow" / "MLmodel").write_text("flavors: {}")
    torch.save(content["state_dict"], artifacts / "detector_weights.pth")
    (artifacts / "base.txt").write_text("not a config")
    (artifacts / "config .py").write_text(content["meta"]["cfg"])
    (artifacts / "model_metadata.json").write_text(json.dumps({"classes": list("vwxyz")}))
    report = convert_mmdet_checkpoint(tmp_path / "mlflow", tmp_path / "out")
    assert report.labels == list("vwxyz") and report.labels_from == "model_metadata.json"
    assert report.config_from == "config .py" and report.source == "detector_weights.pth" and report.assumed == []
    expected = load_file(converted["refine_twostage"][0] / "model.safetensors")
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), expected)


@pytest.mark.parametrize("name", ["r50_plain", "r50_refine_twostage"])
@pytest.mark.slow
def test_the_real_size(name, tmp_path):
    from support.golden_weights import GOLDENS as files
    from support.golden_weights import golden_state_dict

    weights = golden_state_dict(name)
    torch.save({"meta": {"cfg": (files / f"{name}_config.py").read_text()}, "state_dict": weights}, tmp_path / "x.pth")
    report = convert_mmdet_checkpoint(tmp_path / "x.pth", tmp_path / "out")
    assert report.labels_from.startswith("COCO's 80 names") and report.labels[79] == "toothbrush"
    assert "as published by MMDetection for this config, not measured" in (tmp_path / "out" / "README.md").read_text()
    if name == "r50_refine_twostage":
        assert (report.tensors, report.values) == (623, 41_267_009)
    export_mmdet_checkpoint(tmp_path / "out", tmp_path / "back.pth")
    assert_same(open_checkpoint(tmp_path / "back.pth")["state_dict"], weights)


def test_no_bar_is_drawn_and_later_ones_are(runner_checkpoint, save, tmp_path, capsys):
    was_shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        convert_mmdet_checkpoint(save(runner_checkpoint("refine")), tmp_path / "out")
        export_mmdet_checkpoint(tmp_path / "out", tmp_path / "again.pth")
        assert capsys.readouterr().err == "" and logging.is_progress_bar_enabled()
    finally:
        if not was_shown:
            logging.disable_progress_bar()
