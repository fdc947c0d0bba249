"""Folders of stock transformers: every form that its releases write is the same model, and what is no such model."""

import json
import re
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.goldens_other import HF_RESNET18, OTHER, as_hf_resnet, other_weights

from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.conversion import CheckpointError, convert_checkpoint, export_checkpoint
from deformable_detr_refine.conversion.code_bases import read_source
from deformable_detr_refine.conversion.stock.config import describe_config
from deformable_detr_refine.conversion.stock.names import to_common
from deformable_detr_refine.inference.load_model import load_model

VARIANTS = ("plain", "refine", "refine_twostage", "single_scale")


def golden_json(name):
    return json.loads((OTHER / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def weights():
    return {variant: other_weights(f"stock_tiny_{variant}") for variant in VARIANTS}


@pytest.fixture
def folder(tmp_path):
    """Writes a folder of a golden's config, its image processor's settings and these weights."""

    def write(variant, tensors=None, release="", **changes):
        place = tmp_path / "stock"
        place.mkdir(exist_ok=True)
        values = golden_json(f"stock_tiny_{variant}{release and '_' + release}_config") | changes
        (place / "config.json").write_text(json.dumps(values))
        shutil.copy(OTHER / f"stock_preprocessor_{release or '5.24.0'}.json", place / "preprocessor_config.json")
        if tensors is not None:
            save_file(dict(tensors), place / "model.safetensors", metadata={"format": "pt"})
        return place

    return write


def without(weights, *patterns):
    return {name: t for name, t in weights.items() if not any(re.match(pattern, name) for pattern in patterns)}


# What a release leaves out of its safetensors, by variant.
LEFT_OUT = {
    "4.30.2": {
        "plain": [r"(class|bbox)_embed\.[1-9]"],
        "refine": [r"bbox_embed\.0"],
        "refine_twostage": [r"(class|bbox)_embed\.0"],
        "single_scale": [r"(class|bbox)_embed\.[1-9]"],
    },
    "4.57.1": {"plain": [r"(class|bbox)_embed\.[1-9]"], "single_scale": [r"(class|bbox)_embed\.[1-9]"]},
}


def same(place, expected):
    """Whether a folder holds these weights, bit for bit, whatever its names."""
    code_base, source = read_source(place)
    assert code_base.name == "transformers" and not source.weights.strangers
    found, wanted = source.weights.tensors, reference(expected)
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def reference(weights):
    """Common name -> tensor, of all top-level names: the decoder's heads are second names."""
    return {to_common(name): tensor for name, tensor in without(weights, r"model\.decoder\.(class|bbox)_").items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_of_release_5(variant, folder, weights):
    names = golden_json(f"stock_tiny_{variant}_written")
    place = folder(variant, {name: weights[variant][name] for name in names})
    assert same(place, weights[variant])


@pytest.mark.parametrize(
    ("release", "variant"), [(release, variant) for release, variants in LEFT_OUT.items() for variant in variants]
)
def test_safetensors_of_release_4(release, variant, folder, weights):
    shapes = golden_json(f"stock_tiny_{variant}_4.30.2_shapes") if release == "4.30.2" else None
    tensors = other_weights(f"stock_tiny_{variant}", shapes)
    place = folder(variant, without(tensors, *LEFT_OUT[release][variant]), release)
    assert same(place, weights[variant])


@pytest.mark.parametrize("release", ["4.30.2", "4.57.1"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pytorch_files_of_release_4(variant, release, folder, weights):
    tensors = dict(weights[variant])
    for name in [name for name in tensors if name.startswith("model.decoder.bbox_embed.")]:
        tensors[name] = tensors[name.removeprefix("model.decoder.")]  # aliases share storage
    place = folder(variant, None, release)
    torch.save(tensors, place / "pytorch_model.bin")
    for other in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (place / other).write_bytes(b"never opened")
    assert same(place, weights[variant])


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards(form, folder, weights):
    place, tensors = folder("refine"), weights["refine"]
    index = write_shards(place, tensors, form)
    assert same(place, tensors)
    assert same(index, tensors)  # the index itself is given
    report = convert_checkpoint(place, place.parent / "ours")
    assert report.tensors == len(reference(tensors)) and report.weights_from == "2 shards"


def write_shards(place, tensors, form):
    names = sorted(tensors)
    files = [f"{'model' if form == 'safetensors' else 'pytorch_model'}-0000{i}-of-00002.{form}" for i in (1, 2)]
    for start, file in enumerate(files):
        part = {name: tensors[name].clone() for name in names[start::2]}
        (save_file if form == "safetensors" else torch.save)(part, place / file)
    index = place / ("model.safetensors.index.json" if form == "safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"weight_map": {name: files[i % 2] for i, name in enumerate(names)}}))
    return index


def test_names_of_a_model_in_memory_of_release_5(folder, weights):
    renamed = {
        re.sub(r"\.fc([12])\.", r".mlp.fc\1.", name)
        .replace("model.backbone.conv_encoder.", "model.backbone.")
        .replace("self_attn.out_proj", "self_attn.o_proj"): tensor
        for name, tensor in weights["refine"].items()
    }
    assert any(".mlp.fc1." in name for name in renamed) and any("o_proj" in name for name in renamed)
    assert same(folder("refine", renamed), weights["refine"])


def test_a_file_of_lightning_beside_its_config(folder, weights):
    """As the examples for fine-tuning with it leave it: a model within a module, under `state_dict`."""
    place = folder("plain")
    wrapped = {f"model.{name}": tensor for name, tensor in weights["plain"].items()}
    torch.save({"epoch": 1, "pytorch-lightning_version": "2.5", "state_dict": wrapped}, place / "last.ckpt")
    assert same(place / "last.ckpt", weights["plain"])


def test_own_resnet_of_transformers_is_timms(folder, weights):
    renamed = {as_hf_resnet(name): tensor for name, tensor in weights["refine"].items()}
    place = folder("refine", renamed, use_timm_backbone=False, backbone=None, backbone_config=HF_RESNET18)
    assert same(place, weights["refine"])
    fields = read_source(place)[1].facts.fields
    assert (fields["backbone"], fields["backbone_frozen_stages"]) == ("resnet18", 4)


def test_class_heads_that_release_5_ties_are_layer_0s(folder, weights):
    names = [name for name in golden_json("stock_tiny_refine_written") if not name.startswith("class_embed.1")]
    found = read_source(folder("refine", {name: weights["refine"][name] for name in names}))[1].weights.tensors
    assert torch.equal(found["class_heads.1.weight"], weights["refine"]["class_embed.0.weight"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_folder_is_the_same_model(variant, folder, weights, tmp_path):
    convert_checkpoint(folder(variant, weights[variant]), tmp_path / "ours")
    export = export_checkpoint(tmp_path / "ours", tmp_path / "back", "transformers")
    assert export.weights.keys() == set(golden_json(f"stock_tiny_{variant}_written"))
    assert sorted(file.name for file in (tmp_path / "back").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert same(tmp_path / "back", weights[variant])
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "detr"}, "model_type is 'detr'"),
        ({"position_embedding_type": "learned"}, "position_embedding_type is 'learned'"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"num_channels": 4}, "num_channels is 4"),
        ({"architectures": ["DetrForSegmentation"]}, "masks"),
        ({"d_model": "256"}, "d_model is '256', not a whole number"),
        ({"backbone": "../resnet50"}, "backbone ../resnet50 cannot"),
        ({"backbone": "convnext_tiny"}, "backbone convnext_tiny cannot"),
        ({"backbone": "resnet50d"}, "backbone resnet50d cannot"),
        ({"backbone_config": {"model_type": "swin"}}, "the backbone is a swin"),
        ({"use_timm_backbone": False}, r"backbone resnet18 cannot"),
        ({"use_timm_backbone": False, "backbone": "microsoft/resnet-18"}, r"maps \[4\] of 0..4"),
        ({"backbone_config": {"model_type": "resnet"}}, r"maps \[4\] of 0..4"),
        ({"backbone_config": {"model_type": "resnet", "downsample_in_bottleneck": True}}, "downsample_in_bottleneck"),
        ({"backbone_config": {"model_type": "resnet", "depths": [1, 1, 1, 1]}}, r"bottleneck \[1, 1, 1, 1\]"),
        ({"backbone_kwargs": {"out_indices": [1, 2, 3]}}, r"maps \[1, 2, 3\]"),
        ({"backbone_kwargs": {"output_stride": 8}}, "output_stride=8"),
        (
            {
                "dilation": True,
                "backbone_config": {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]},
            },
            "dilation=True with transformers' own ResNet",
        ),
    ],
)
def test_a_config_of_something_else_is_refused_by_name(changes, message):
    with pytest.raises(CheckpointError, match=f"^config.json: .*{message}|^config.json is .*{message}"):
        describe_config(golden_json("stock_tiny_plain_4.30.2_config") | changes, "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_layers": 10**6}, "decoder_layers=1000000, but the weights 2"),
        ({"num_queries": 300}, "num_queries=300, but the weights 30"),
        ({"backbone": "resnet50"}, "backbone='resnet50', but the weights 'resnet18'"),
        ({"with_box_refine": False}, "with_box_refine=False, but the weights True"),
        ({"encoder_n_points": 3}, "encoder_n_points"),
        ({"id2label": {"0": "a"}}, "names 1 class"),
        ({"dilation": "yes"}, "dilation is 'yes', not True or False"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(changes, message, folder, weights, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(folder("refine", weights["refine"], "4.30.2", **changes), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_unequal_names_of_one_tensor_are_refused(folder, weights):
    changed = weights["refine"] | {"model.decoder.bbox_embed.0.layers.0.bias": torch.zeros(256)}
    with pytest.raises(CheckpointError, match="two names of one tensor, but they differ"):
        read_source(folder("refine", changed))


def test_a_lost_head_is_not_made_up(folder, weights, tmp_path):
    names = golden_json("stock_tiny_refine_twostage_written")
    lost = {name: weights["refine_twostage"][name] for name in names if "decoder.class_embed.1" not in name}
    with pytest.raises(CheckpointError, match=r"2 missing: class_embed\.1\.weight"):
        convert_checkpoint(folder("refine_twostage", lost), tmp_path / "ours")


@pytest.mark.parametrize("other", ["../outside.safetensors", "/etc/passwd", "a\\b.safetensors", "config.json"])
def test_an_index_stays_in_its_folder(other, folder):
    place = folder("refine")
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.level_embed": other}}))
    with pytest.raises(CheckpointError, match="is no file of weights in its own folder"):
        read_source(place)


def test_an_index_must_say_what_is_there(folder, weights):
    place = folder("refine")
    index = write_shards(place, weights["refine"], "safetensors")
    values = json.loads(index.read_text())
    for text in ("[]", "{}", json.dumps({"weight_map": {"a": 1}}), "\x80"):
        index.write_bytes(text.encode("latin1"))
        with pytest.raises(CheckpointError, match=re.escape(str(index))):
            read_source(place)
    values["weight_map"]["more"] = values["weight_map"]["model.level_embed"]
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="more is in one only"):
        read_source(place)
    (place / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="which is not there"):
        read_source(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\xff" * 600, "damaged or cut short"),
    ],
)
def test_damaged_weights_are_named(content, message, folder):
    place = folder("refine")
    (place / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors .*{message}"):
        read_source(place)


def test_weights_cut_short_are_named(folder, weights):
    file = folder("refine", weights["refine"]) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_source(file)


def test_a_config_asks_nobody_and_runs_nothing(folder, weights, tmp_path, monkeypatch):
    def no_network(*args):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    asks = {
        "auto_map": {"AutoModelForObjectDetection": "stranger/evil--modeling.Evil"},
        "use_pretrained_backbone": True,
        "_name_or_path": "stranger/evil",
        "custom_pipelines": {"x": {"impl": "evil.Evil"}},
    }
    place = folder("plain", weights["plain"], "4.57.1", **asks)
    (place / "modeling.py").write_text("raise SystemExit('executed')")
    report = convert_checkpoint(place, tmp_path / "ours")
    written = (tmp_path / "ours" / "config.json").read_text()
    assert report.variant == "plain" and "evil" not in written


def test_a_file_of_weights_finds_its_config(folder, weights, tmp_path):
    place = folder("plain", weights["plain"])
    assert same(place / "model.safetensors", weights["plain"])
    torch.save(dict(weights["plain"]), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"needs the config\.json .* give --config"):
        read_source(tmp_path / "model.pth")
    assert read_source(tmp_path / "model.pth", config=place / "config.json")[0].name == "transformers"


def test_names_of_sensetimes_folders_are_distinct(folder, weights, tmp_path):
    names = {str(number): name for number, name in enumerate(["N/A", "person", "N/A", "car", "cat", "cat"])}
    report = convert_checkpoint(folder("refine", weights["refine"], id2label=names), tmp_path / "ours")
    assert report.labels == ["unused_0", "person", "unused_2", "car", "cat_4", "cat_5"]
    wrong = {"0": "a", "2": "b"}
    report = convert_checkpoint(folder("refine", id2label=wrong), tmp_path / "other")
    assert report.labels[0] == "LABEL_0" and any("id2label" in note for note in report.notes)


def test_an_unconverted_folder_says_how_to_convert_it(folder):
    place = folder("plain", {})
    with pytest.raises(ValueError, match=r"transformers' own Deformable DETR .* `ddetr convert"):
        DeformableDetrRefineForObjectDetection.from_pretrained(place)
    with pytest.raises(CheckpointError, match=r"stock is a model of transformers' own .* `ddetr convert"):
        load_model(place)
