"""What cannot be converted: one clear error each, before anything is written."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from deformable_detr_refine.conversion import CheckpointError, convert_mmdet_checkpoint, export_mmdet_checkpoint
from deformable_detr_refine.conversion.mmdet.names import name_2x_from_3x
from deformable_detr_refine.files import new_path


@pytest.fixture
def refuses(save, tmp_path):
    """refuses(content, message, **arguments): the conversion fails so, and leaves nothing behind."""

    def check(content, message, error=CheckpointError, **arguments):
        path = save(content)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(error, match=message) as caught:
            convert_mmdet_checkpoint(path, tmp_path / "new" / "out", **arguments)
        assert sorted(tmp_path.rglob("*")) == before
        assert "\n" not in str(caught.value)

    return check


def change(content, name, value=None):
    """Replace, add or (without a value) take away one entry of the state dict."""
    weights = dict(content["state_dict"])
    if value is None:
        del weights[name]
    else:
        weights[name] = value
    return {**content, "state_dict": weights}


def edit(content, old, new):
    assert old in content["meta"]["cfg"]
    return {**content, "meta": {**content["meta"], "cfg": content["meta"]["cfg"].replace(old, new)}}


LAYER = "decoder.layers.1.cross_attn.value_proj.weight"


def with_infinity():
    tensor = torch.zeros(256, 256)
    tensor[3, 4], tensor[5, 6] = torch.nan, torch.inf
    return tensor


CHANGED_WEIGHTS = {
    "missing": (LAYER, None, rf"1 missing: {LAYER}"),
    "missing at the start": ("level_embed", None, "lacks level_embed"),
    "missing block": ("backbone.layer4.1.conv2.weight", None, r"1 missing: backbone\.layer4\.1\.conv2\.weight"),
    "extra": ("decoder.extra.weight", torch.ones(1), r"1 not of this model: decoder\.extra\.weight"),
    "extra layer": ("encoder.layers.2.norms.0.weight", torch.ones(256), "encoder_layers=2, but the weights 3"),
    "misshapen": (LAYER, torch.ones(256, 255), r"of another shape: .*\(256, 255\) instead of \(256, 256\)"),
    "dimensions": ("level_embed", torch.ones(4, 256, 1), "has the shape"),
    "levels": ("level_embed", torch.ones(3, 256), "level_embed has 3 levels, the neck 4"),
    "width": ("level_embed", torch.ones(4, 1 << 16), "d_model=256, but the weights 65536"),
    "a gap": ("encoder.layers.999999.norms.0.weight", torch.ones(1), r"lacks encoder\.layers\.2, but has"),
    "not finite": (LAYER, with_infinity(), rf"2 of the 65536 values of {LAYER} are not finite"),
    "whole numbers": (LAYER, torch.ones(256, 256, dtype=torch.int64), "not floating-point numbers"),
    "complex": (LAYER, torch.ones(256, 256, dtype=torch.complex64), "torch.complex64"),
    "counter": ("backbone.bn1.num_batches_tracked", torch.ones(()), "not whole numbers"),
    "no tensor": (LAYER, [1.0, 2.0], "is a list, not a tensor"),
    "sparse": (LAYER, torch.ones(256, 256).to_sparse(), "refuses to load torch._utils._rebuild_sparse_tensor"),
    "repeated": (LAYER, torch.ones(1).expand(256, 256), "but not so many values"),
    "enormous": ("level_embed", torch.ones(1, 1).expand(1 << 40, 256), "but not so many values"),
    "escape": ("\x1b[2J", torch.ones(1), r"\\x1b"),
}


@pytest.mark.parametrize("case", list(CHANGED_WEIGHTS))
def test_every_key_and_value_is_accounted_for(refuses, runner_checkpoint, case):
    name, value, message = CHANGED_WEIGHTS[case]
    refuses(change(runner_checkpoint("refine_twostage"), name, value), message)


def test_missing_names_are_told_as_the_file_would_write_them(refuses, runner_checkpoint):
    weights = {name_2x_from_3x(k) or k: v for k, v in runner_checkpoint("refine")["state_dict"].items()}
    del weights["bbox_head.transformer.encoder.layers.0.ffns.0.layers.1.bias"]
    refuses(weights, r"1 missing: bbox_head\.transformer\.encoder\.layers\.0\.ffns\.0\.layers\.1\.bias")


def test_unequal_copies_of_the_one_head(refuses, runner_checkpoint):
    content = runner_checkpoint("plain")
    name = "bbox_head.reg_branches.1.2.bias"
    refuses(change(content, name, content["state_dict"][name] + 1e-7), "differs from layer 0's")


CHANGED_TEXT = {
    "classes": ("num_classes=5", "num_classes=6", "the config says num_labels=6, but the weights 5"),
    "queries": ("num_queries=30", "num_queries=31", "num_queries=31, but the weights 30"),
    "stages": ("as_two_stage=False", "as_two_stage=True", "two_stage=True, but the weights False"),
    "backbone": ("depth=18", "depth=50", "backbone='resnet50', but the weights 'resnet18'"),
    "feed-forward": ("feedforward_channels=128", "feedforward_channels=64", "ffn_dim=64, but the weights 128"),
    "points": ("num_points=4", "num_points=2", "encoder_n_points=4, but the config 2"),
    "heads": ("num_heads=8", "num_heads=3", "3 heads and 4 levels do not divide"),
    "width": ("out_channels=256", "out_channels=128", "d_model=128, but the weights 256"),
    "no literal": ("as_two_stage=False", "as_two_stage=find_out()", "is not a literal"),
    "no text": ("model = dict(", "model = = dict(", "not the Python text"),
}


@pytest.mark.parametrize("case", list(CHANGED_TEXT))
def test_text_that_contradicts_the_weights(refuses, runner_checkpoint, case):
    old, new, message = CHANGED_TEXT[case]
    content = runner_checkpoint("refine")
    if case in ("feed-forward", "width", "queries", "backbone"):
        content["meta"]["cfg"] = content["meta"]["cfg"].replace(
            "num_feats=128", "num_feats=" + ("64" if case == "width" else "128")
        )
    refuses(edit(content, old, new), message)


def test_two_stage_without_refinement(refuses, runner_checkpoint):
    content = edit(runner_checkpoint("refine_twostage"), "with_box_refine=True", "with_box_refine=False")
    refuses(content, "two-stage without box refinement")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_queries": 31}, "--num-queries says num_queries=31"),
        ({"two_stage": True}, ": --two-stage says two_stage=True"),
        ({"with_box_refine": False}, "--no-box-refine says with_box_refine=False"),
        ({"num_heads": 4}, "--num-heads says"),
        ({"raw_weights": True}, "no ema_state_dict"),
    ],
)
def test_arguments_that_contradict_the_checkpoint(refuses, runner_checkpoint, arguments, message):
    refuses(runner_checkpoint("refine"), message, **arguments)


OTHER_MODELS = {
    "DINO": {"level_embed": torch.ones(4, 256), "dn_query_generator.label_embedding.weight": torch.ones(80, 256)},
    "R-CNN": {"backbone.conv1.weight": torch.ones(1), "roi_head.bbox_head.fc_cls.weight": torch.ones(1)},
    "plain DETR": {"bbox_head.fc_cls.weight": torch.ones(1), "encoder.layers.0.norms.0.weight": torch.ones(1)},
    "of the authors' repository, not of MMDetection": {
        "transformer.encoder.layers.0.self_attn.sampling_offsets.weight": torch.ones(1)
    },
    "transformers library": {"model.encoder.layers.0.fc1.weight": torch.ones(1), "class_embed.0.bias": torch.ones(1)},
    "already converted": {"model.backbone.body.conv1.weight": torch.ones(1), "class_heads.0.bias": torch.ones(1)},
    "image classifier": {"conv1.weight": torch.ones(1), "fc.weight": torch.ones(1)},
    "begin with blocks, stem": {"stem.weight": torch.ones(1), "blocks.0.weight": torch.ones(1)},
    "holds no weights": {"meta": {}, "state_dict": {}},
    "no state_dict": {"meta": {"epoch": 1}, "model": {"a": torch.ones(1)}},
    "is a dict, not a tensor": {"model": {"a": torch.ones(1)}},
}


@pytest.mark.parametrize("name", list(OTHER_MODELS))
def test_other_models_are_called_what_they_look_like(refuses, name):
    refuses(OTHER_MODELS[name], name)


def test_class_names(refuses, runner_checkpoint, tmp_path):
    content = runner_checkpoint("refine")
    content["meta"]["dataset_meta"] = {"CLASSES": tuple("abcd")}
    refuses(content, "dataset_meta names 4 classes, but the weights have 5; give --classes")
    content["meta"]["dataset_meta"] = {"CLASSES": tuple("abcda")}
    refuses(content, "names 'a' twice")
    names = tmp_path / "names.txt"
    names.write_text("\n".join("vwxy"))
    refuses(content, r"names\.txt names 4 classes", classes=names)
    names.write_text('["v", 1]')
    refuses(content, "other than names", classes=names)
    for text in ('["v", ', "[" * 100_000, "[" + "9" * 5000 + "]"):
        names.write_text(text)
        refuses(content, "not a JSON list", classes=names)
    refuses(content, "no file of class names", error=FileNotFoundError, classes=tmp_path / "absent")


def test_config_files(refuses, runner_checkpoint, tmp_path):
    content = runner_checkpoint("refine")
    refuses(content, r"no config file .*absent\.py", error=FileNotFoundError, config=tmp_path / "absent.py")
    (tmp_path / "child.py").write_text("_base_ = './parent.py'")
    refuses(
        content,
        r"no config file .*parent\.py, which .*child\.py builds on",
        FileNotFoundError,
        config=tmp_path / "child.py",
    )
    (tmp_path / "other.py").write_text(content["meta"]["cfg"].replace("with_box_refine=True", "with_box_refine=False"))
    refuses(
        content, r"other\.py says with_box_refine=False, but the config text in .* True", config=tmp_path / "other.py"
    )


def test_azure_folders(tmp_path):
    folder = tmp_path / "mlflow" / "artifacts"
    folder.mkdir(parents=True)

    def refuses(message):
        with pytest.raises(CheckpointError, match=message):
            convert_mmdet_checkpoint(tmp_path / "mlflow", tmp_path / "out")

    refuses("holds no weights")
    torch.save({}, folder / "a_weights.pth")
    torch.save({}, folder / "b_weights.pth")
    refuses("several weights: a_weights.pth, b_weights.pth")
    (folder / "b_weights.pth").unlink()
    (folder / "model_metadata.json").write_text("{")
    refuses("is not JSON")
    (tmp_path / "mlflow" / "config.json").write_text('{"model_type": "deformable_detr_refine"}')
    (tmp_path / "mlflow" / "model.safetensors").write_text("")
    refuses("converted model folder already")


def test_output_that_is_taken(tmp_path, save):
    out = tmp_path / "out"
    out.write_text("a file")
    with pytest.raises(CheckpointError, match="not a folder"):
        convert_mmdet_checkpoint(tmp_path / "no.pth", out)
    with pytest.raises(OSError, match=r"Nothing can be written in .*out: .*out is a file\."):
        convert_mmdet_checkpoint(tmp_path / "no.pth", out / "below")
    out.unlink()
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    # Before any work: the checkpoint does not even exist.
    with pytest.raises(CheckpointError, match="--force"):
        convert_mmdet_checkpoint(tmp_path / "no.pth", out)
    with pytest.raises(CheckpointError, match="more than an earlier model folder"):
        convert_mmdet_checkpoint(tmp_path / "no.pth", out, force=True)
    with pytest.raises(CheckpointError, match="is what is read"):
        convert_mmdet_checkpoint(out, out, force=True)
    assert (out / "thesis.tex").read_text() == "years of work"
    with pytest.raises(CheckpointError, match=r"exists; choose another output"):
        export_mmdet_checkpoint(out, out / "thesis.tex")
    with pytest.raises(CheckpointError, match=r"is no model folder of this package\. Two steps"):
        export_mmdet_checkpoint(out, tmp_path / "x.pth")
    (out / "config.json").write_text(json.dumps({"model_type": "detr"}))
    with pytest.raises(CheckpointError, match="model of type detr"):
        export_mmdet_checkpoint(out, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_a_folder_is_old_or_new(tmp_path):
    out = tmp_path / "deep" / "er" / "out"

    def fill(text, fail=False):
        with new_path(out) as folder:
            folder.mkdir()
            (folder / "config.json").write_text(text)
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill("half", fail=True)
    assert os.listdir(tmp_path) == []
    fill("one")
    with pytest.raises(KeyboardInterrupt):
        fill("half", fail=True)
    assert (out / "config.json").read_text() == "one"
    fill("two")
    assert (out / "config.json").read_text() == "two" and os.listdir(out.parent) == ["out"]


def test_what_is_new_moves_into_a_mount_point(tmp_path, monkeypatch):
    """A job on Azure writes into a mounted folder, which nothing can rename."""
    out, rename = tmp_path / "out", os.rename
    out.mkdir()

    def refuse(source, target):
        if Path(source) == out:
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with new_path(out) as folder:
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "config.json").write_text("one")
    assert (out / "model" / "config.json").read_text() == "one" and os.listdir(tmp_path) == ["out"]
    with pytest.raises(OSError, match="busy"), new_path(out) as folder:
        folder.mkdir()
    assert (out / "model" / "config.json").read_text() == "one" and os.listdir(tmp_path) == ["out"]


def test_a_model_larger_than_its_file_takes_no_memory(refuses, runner_checkpoint):
    """Without a text nothing contradicts the width; a model so wide would need terabytes."""
    content = change(runner_checkpoint("refine"), "level_embed", torch.ones(4, 1 << 20))
    refuses(content["state_dict"], "d_model=1048576 must be a whole number")


def test_a_flag_is_told_as_it_was_given(refuses, runner_checkpoint):
    refuses(runner_checkpoint("refine_twostage"), ": --no-two-stage says two_stage=False, but", two_stage=False)


def test_a_width_that_no_model_has(refuses, tiny_weights):
    """Told by the config class, whose errors are no ValueError."""
    weights = {}
    for name, tensor in tiny_weights["refine"].items():
        kept = [40 if size == 256 else 80 if size == 512 else size for size in tensor.shape]
        if "sampling_offsets" in name:
            kept[0] = tensor.shape[0]
        if "in_proj" in name:
            kept[0] = 120
        if name.startswith("backbone"):
            kept = tensor.shape
        if name == "query_embedding.weight":
            kept = [30, 80]
        weights[name] = tensor[tuple(slice(size) for size in kept)].clone()
    refuses(weights, "cannot become a model of this package: d_model=40 is not divisible by 32")
