"""Checkpoints of the authors' code and of detrex: what is read from where, the way back, and what is refused."""

import argparse
import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file
from support.goldens_mmdet import golden_config
from support.goldens_other import write_checkpoint

from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection
from deformable_detr_refine.conversion import (
    CheckpointError,
    convert_checkpoint,
    export_checkpoint,
    export_mmdet_checkpoint,
    open_checkpoint,
)
from deformable_detr_refine.conversion.coco_rows import keep_80, spread_to_91
from deformable_detr_refine.conversion.code_bases import code_base_named
from deformable_detr_refine.conversion.detrex.yaml_file import look_up, read_yaml
from deformable_detr_refine.conversion.label_names import COCO_91_NAMES, COCO_IDS, COCO_NAMES
from deformable_detr_refine.conversion.original.args import args_of
from deformable_detr_refine.conversion.proof.verify import verify_checkpoint

SMALL = {"neck_bias": True, "d_model": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}


def small_model(**fields):
    torch.manual_seed(0)
    config = golden_config("tiny", "refine", **{**SMALL, **fields})
    model = DeformableDetrRefineForObjectDetection(config)
    for name, parameter in model.named_parameters():
        if name.endswith("conv.bias"):  # a new one is zero
            torch.nn.init.normal_(parameter)
    return model


def saved(model, path, code_base="original", **entries):
    """A checkpoint as that code base's training loop writes it."""
    weights = code_base_named(code_base).theirs(model.state_dict(), model.config)
    if code_base == "original":
        entries = {"args": argparse.Namespace(**args_of(model.config)), "epoch": 3, **entries}
    torch.save({"model": weights, **entries}, path)
    return path


@pytest.fixture(scope="module")
def small():
    return small_model()


@pytest.fixture
def refuses(tmp_path):
    """refuses(source, message, **arguments): in one sentence, and nothing is left."""

    def check(source, message, **arguments):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(CheckpointError, match=message) as error:
            convert_checkpoint(source, tmp_path / "new" / "out", **arguments)
        assert sorted(tmp_path.rglob("*")) == before and "\n" not in str(error.value)

    return check


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_the_authors_there_and_back(small, tmp_path, zipped):
    path = saved(small, tmp_path / "checkpoint.pth")
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    report = convert_checkpoint(path, tmp_path / "out")
    assert report.code_base == "the authors' repository" and report.assumed == [] and report.written_by == {"epoch": 3}
    assert report.config_from == "the checkpoint's own args"
    assert DeformableDetrRefineConfig.from_pretrained(tmp_path / "out").neck_bias
    export_checkpoint(tmp_path / "out", tmp_path / "back.pth", "original")
    back = torch.load(tmp_path / "back.pth", weights_only=False)
    assert list(back["model"]) == list(content["model"]) and back["args"].nheads == 8 and not back["args"].two_stage
    assert all(torch.equal(tensor, content["model"][name]) for name, tensor in back["model"].items())
    with pytest.raises(CheckpointError, match=r"MMDetection's neck has no bias"):
        export_mmdet_checkpoint(tmp_path / "out", tmp_path / "mmdet.pth")


def test_without_a_bias_zeros_are_written_which_mmdetection_takes(tmp_path):
    model = small_model(neck_bias=False)
    model.save_pretrained(tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "authors.pth", "original")
    convert_checkpoint(tmp_path / "authors.pth", tmp_path / "again")
    weights = export_mmdet_checkpoint(tmp_path / "again", tmp_path / "mmdet.pth")
    expected = export_mmdet_checkpoint(tmp_path / "model", tmp_path / "direct.pth")
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("code_base", ["mmdet", "original", "transformers"])
def test_learned_queries_have_no_counterpart(code_base, tmp_path):
    small_model(two_stage=True, mixed_query_selection=True, neck_bias=False).save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="mixed_query_selection=True, which has no counterpart"):
        export_checkpoint(tmp_path / "model", tmp_path / "out.pth", code_base)


@pytest.mark.parametrize("code_base", ["mmdet", "original", "transformers"])
def test_another_class_target_is_told(code_base, tmp_path):
    """It is of training alone: what is written detects the same."""
    small_model(quality_target=0.25, neck_bias=False).save_pretrained(tmp_path / "model")
    notes = export_checkpoint(tmp_path / "model", tmp_path / "out", code_base).notes
    assert any("quality_target=0.25" in note and "focal loss" in note for note in notes)


def test_detrex_takes_the_averaged_weights_and_says_so(small, tmp_path):
    raw = code_base_named("detrex").theirs(small.state_dict(), small.config)
    averaged = {name: tensor + 1 for name, tensor in raw.items()}
    torch.save({"model": raw, "ema_state": averaged, "iteration": 7}, tmp_path / "model_final.pth")
    for flag, expected in ((False, averaged), (True, raw)):
        report = convert_checkpoint(tmp_path / "model_final.pth", tmp_path / "out", raw_weights=flag, force=True)
        assert ("raw" if flag else "averaged") in report.weights_from and report.written_by == {"iteration": 7}
        found = load_file(tmp_path / "out" / "model.safetensors")
        assert torch.equal(found["model.level_embed"], expected["transformer.level_embeds"])
    config = DeformableDetrRefineConfig.from_pretrained(tmp_path / "out")
    assert (config.inverse_sigmoid_eps, config.backbone_frozen_stages, config.class_loss_coefficient) == (1e-3, 0, 1.0)
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["top_k"] == 300


def test_the_rates_of_dropout_that_differ_are_said(small, tmp_path):
    path = saved(small, tmp_path / "model_final.pth", "detrex")
    config = (
        "model: {_target_: a.DeformableDETR, neck: {kernel_size: 1}, position_embedding: {normalize: true,"
        " offset: -0.5}, transformer: {encoder: {attn_dropout: 0.2, ffn_dropout: 0.1},"
        " decoder: {attn_dropout: 0.1, ffn_dropout: 0.1}}}"
    )
    for text, differ in ((config, True), (config.replace("0.2", "0.1"), False)):
        (tmp_path / "config.yaml").write_text(text)
        notes = convert_checkpoint(path, tmp_path / "out", force=True).notes
        assert any("dropout rates differ" in note for note in notes) == differ
    assert DeformableDetrRefineConfig.from_pretrained(tmp_path / "out").dropout == 0.1


def test_a_fork_saves_under_another_name(small, tmp_path):
    content = torch.load(saved(small, tmp_path / "checkpoint.pth"), weights_only=False)
    content["state_dict"] = {f"model.{name}": tensor for name, tensor in content.pop("model").items()}
    content["args"] = vars(content["args"])
    torch.save(content, tmp_path / "epoch=3.ckpt")
    report = convert_checkpoint(tmp_path / "epoch=3.ckpt", tmp_path / "out")
    assert (report.code_base, report.weights_from, report.assumed) == ("the authors' repository", "state_dict", [])
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in small.state_dict().items() if name in found)


@pytest.mark.parametrize("code_base", ["mmdet", "original", "transformers"])
def test_a_backbone_with_a_tag_is_that_resnet(tmp_path, code_base):
    small_model(backbone="resnet18.tv_in1k", neck_bias=False).save_pretrained(tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "out", code_base)
    convert_checkpoint(tmp_path / "out", tmp_path / "again")
    assert DeformableDetrRefineConfig.from_pretrained(tmp_path / "again").backbone == "resnet18"


def test_91_outputs(tmp_path):
    model = small_model(num_labels=91)
    path = saved(model, tmp_path / "checkpoint.pth")
    report = convert_checkpoint(path, tmp_path / "kept")
    assert report.labels == list(COCO_91_NAMES) and report.labels[1] == "person" and report.labels[12] == "unused_12"
    report = convert_checkpoint(path, tmp_path / "chosen", coco80=True)
    assert report.labels == list(COCO_NAMES)
    assert DeformableDetrRefineConfig.from_pretrained(tmp_path / "chosen").category_ids == list(COCO_IDS)
    found = load_file(tmp_path / "chosen" / "model.safetensors")
    assert torch.equal(found["class_heads.1.weight"], model.state_dict()["class_heads.1.weight"][list(COCO_IDS)])
    # Back to the authors' form they stand at their ids again, and come out the same.
    export_checkpoint(tmp_path / "chosen", tmp_path / "back.pth", "original")
    convert_checkpoint(tmp_path / "back.pth", tmp_path / "again", coco80=True)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == found.keys() and all(torch.equal(again[name], found[name]) for name in found)


def test_the_first_stage_keeps_the_output_that_ranks():
    head = "model.first_stage.class_head."
    weights = {f"{head}foreground.bias": torch.zeros(1), f"{head}other_classes.bias": torch.arange(1.0, 91)}
    kept = keep_80(weights)
    assert torch.equal(kept[f"{head}foreground.bias"], torch.zeros(1))
    assert kept[f"{head}other_classes.bias"].tolist() == [float(number) for number in COCO_IDS[1:]]
    assert torch.equal(keep_80(spread_to_91(kept))[f"{head}other_classes.bias"], kept[f"{head}other_classes.bias"])


def test_coco80_is_for_91(small, tmp_path, refuses):
    refuses(saved(small, tmp_path / "checkpoint.pth"), "has 5 outputs, and --coco80", coco80=True)


ARGS = {
    "learned positions": ({"position_embedding": "learned"}, r"args\.position_embedding is 'learned'"),
    "masks": ({"masks": True}, r"args\.masks is True"),
    "another backbone": ({"backbone": "swin_t"}, r"args\.backbone is 'swin_t'"),
    "another width": ({"hidden_dim": 128}, "the Namespace of its args says d_model=128, but the weights 64"),
    "a dictionary": (None, "pth: its args says d_model=128, but the weights 64"),
    "a string": ({"enc_layers": "2"}, r"args\.enc_layers is '2', not a whole number"),
    "a number": ({"two_stage": 1}, "not True or False"),
    "an array": ({"position_embedding": torch.zeros(3)}, r"args\.position_embedding is tensor"),
    "depth": ({"dec_layers": [[[[[[[[[]]]]]]]]]}, r"args\.dec_layers is \[\[\["),
}


@pytest.mark.parametrize("case", list(ARGS))
def test_args_that_ask_for_something_else(small, tmp_path, refuses, case):
    change, message = ARGS[case]
    args = {**args_of(small.config), **(change or {"hidden_dim": 128})}
    refuses(saved(small, tmp_path / "checkpoint.pth", args=argparse.Namespace(**args) if change else args), message)


class Subclass(argparse.Namespace):
    pass


class Attack:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return eval, (f"open({str(self.canary)!r}, 'w')",)


def test_namespaces_are_inert(small, tmp_path, refuses):
    canary = tmp_path / "canary"
    for args, message in (
        (argparse.Namespace(x=Attack(canary)), r"refuses to load builtins\.eval"),
        (argparse.Namespace(x=pathlib.PurePosixPath("/")), r"refuses to load pathlib\.PurePosixPath"),
        (Subclass(), "refuses to load .*Subclass"),
    ):
        refuses(saved(small, tmp_path / "checkpoint.pth", args=args), message)
    assert not canary.exists()
    around = argparse.Namespace(**args_of(small.config))
    around.self, around.__dict__["__class__"] = around, "str"
    path = saved(small, tmp_path / "checkpoint.pth", args=around)
    assert convert_checkpoint(path, tmp_path / "out").assumed == []
    assert repr(open_checkpoint(path)["args"]) == "<inert argparse.Namespace>"
    torch.save({"model": argparse.Namespace(a=1)}, tmp_path / "checkpoint.pth")
    refuses(tmp_path / "checkpoint.pth", "holds no weights|begin with|no weights")


def test_aliases_must_be_equal(small, tmp_path, refuses):
    path = saved(small, tmp_path / "checkpoint.pth")
    content = torch.load(path, weights_only=False)
    alias = "transformer.decoder.bbox_embed.1.layers.2.bias"
    right = content["model"][alias]
    content["model"][alias] = right + 1
    content["model"]["backbone.0.body.total_ops"] = torch.zeros(1)
    torch.save(content, path)
    refuses(path, "are two names of one tensor, but they differ")
    content["model"] = {f"module.{name}": tensor for name, tensor in content["model"].items()}
    content["model"][f"module.{alias}"] = right
    torch.save(content, path)
    assert convert_checkpoint(path, tmp_path / "out").variant == "refine"


def test_looks_alike(small, tmp_path, refuses):
    path = saved(small, tmp_path / "checkpoint.pth", "detrex")
    content = torch.load(path)
    content["model"]["label_enc.weight"] = torch.ones(81, 256)
    torch.save(content, path)
    refuses(path, "is not detrex's Deformable DETR: it looks like a DINO or DN-DETR")
    torch.save({"model": {f"detr.{name}": tensor for name, tensor in content["model"].items()}}, path)
    refuses(path, "it looks like a detector with masks")
    torch.save(code_base_named("original").theirs(small.state_dict(), small.config), path)
    refuses(
        path, "checkpoint.pth is of the authors' repository, not of MMDetection: drop --from mmdet", code_base="mmdet"
    )
    refuses(path, "is of the authors' repository, not of transformers: drop --from", code_base="transformers")


def test_a_folder_of_another_code_base_than_is_said(tmp_path, refuses):
    folder = write_checkpoint("stock_tiny_plain", tmp_path / "stock")
    for code_base in ("mmdet", "original", "detrex"):
        for place in (folder, folder / "model.safetensors"):
            refuses(place, f"has the form of transformers, not of .*: drop --from {code_base}", code_base=code_base)
    folder = write_checkpoint("detrex_tiny_plain", tmp_path / "detrex").parent
    refuses(folder, "is of detrex, not of MMDetection: drop --from mmdet", code_base="mmdet")


def test_yaml_makes_nothing(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "a: !!python/object/apply:os.system ['touch canary']\nb: !!python/name:os.system ''\n"
        "c: {d: '${..e}', f: '${.g}', g: 3}\ne: 4\nh: '${h}'\n"
        "x: &x [1]\ny: {<<: {z: 1}}\n"
    )
    config = read_yaml(path)
    assert config["a"] == ["touch canary"] and config["b"] == "" and not (tmp_path / "canary").exists()
    assert (look_up(config, "c", "d"), look_up(config, "c", "f"), look_up(config, "h")) == (4, 3, None)
    for text in ("[1]", "a: [", "[" * 100_000, "a: 2001-13-40", "\x00", "!!int x: 1"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match="YAML"):
            read_yaml(path)


def test_detrex_configs_that_are_not_read(small, tmp_path, refuses):
    path = saved(small, tmp_path / "model_final.pth", "detrex")
    (tmp_path / "config.yaml.pkl").write_bytes(b"cos\nsystem\n")
    refuses(path, "would have to be executed; give the config.yaml", config=tmp_path / "config.yaml.pkl")
    (tmp_path / "config.yaml").write_text("model: {_target_: projects.dino.modeling.DINO}")
    refuses(path, r"describes projects\.dino\.modeling\.DINO, not DeformableDETR")
    (tmp_path / "config.yaml").write_text(
        "model: {_target_: a.DeformableDETR, backbone: {stages: {stride_in_1x1: true}}, neck: {kernel_size: 1},"
        " position_embedding: {normalize: true, offset: -0.5}}"
    )
    refuses(path, "stride_in_1x1 is True; this package has only False")
    (tmp_path / "config.yaml").write_text("image: python\nservices: {a: 1}")  # somebody else's
    assert convert_checkpoint(path, tmp_path / "out").config_from is None


def test_verify_says_what_cannot_be_run(small, tmp_path, samples):
    path = saved(small, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match=r"is the authors', whose code no package index has"):
        verify_checkpoint(path, [samples / "10.jpg"])


def test_queries_without_end(tmp_path, refuses):
    model = small_model(two_stage=True, d_model=256)
    args = argparse.Namespace(**{**args_of(model.config), "num_queries": 10**30})
    refuses(saved(model, tmp_path / "checkpoint.pth", args=args), r"says num_queries=1e\+30, which no model has")


def test_files_without_weights(tmp_path, refuses):
    torch.save({"model": {}, "args": argparse.Namespace(), "epoch": 1, "optimizer": {}}, tmp_path / "empty.pth")
    refuses(tmp_path / "empty.pth", "holds no weights of a model that can be converted")
