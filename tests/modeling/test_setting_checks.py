"""Settings of a stranger's folder: each has a type and a range, and is refused before anything is built."""

import json

import pytest
from support.small_detector import save_small_detector, small_config

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)
from deformable_detr_refine.data.label_map import LabelMap
from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.inference.load_model import load_model, load_processor
from deformable_detr_refine.modeling import setting_checks

DEEP = "[" * 100_000 + "]" * 100_000
CONFIGS = {
    "layers": ({"encoder_layers": 10**9}, "encoder_layers=1000000000 must be a whole number from 1 to 100"),
    "by another name": ({"num_hidden_layers": 10**9}, "encoder_layers=1000000000 must be"),
    "levels": ({"num_feature_levels": 10**6}, "num_feature_levels=1000000 must be"),
    "queries": ({"num_queries": 10**12}, "num_queries=1000000000000 must be"),
    "width": ({"embed_dims": [256]}, "d_model=a list must be"),
    "all large": (
        {"encoder_layers": 100, "d_model": 8192, "encoder_ffn_dim": 60_000},
        "parameters without the backbone",
    ),
    "classes": ({"num_labels": 10**9, "id2label": None}, "num_labels=1000000000 must be"),
    "no class": ({"num_labels": 0, "id2label": None}, "num_labels=0 must be"),
    "classes beside names": ({"num_labels": 10**9}, "num_labels=1000000000 must be"),
    "no number of classes": ({"num_labels": None}, "num_labels=None must be"),
    "another kind": ({"model_type": ["x"]}, "model_type=a list must be a name"),
    "a text of layers": ({"encoder_layers": "x\n" * 10**5}, "Field 'encoder_layers' expected int, got str"),
    "names": ({"id2label": {"0": "a", "7": "b"}}, "number its 2 classes from 0 on"),
    "a list of names": ({"id2label": ["a"]}, "id2label must name"),
    "long name": ({"id2label": {"0": "x" * 10**5}}, r"id2label\[0\]='xxx"),
    "ids": ({"category_ids": ["x" * 10**6]}, "category_ids must have"),
    "infinite": ({"class_cost": float("inf")}, "class_cost=inf must be a number"),
    "not a number": ({"focal_gamma": float("nan")}, "focal_gamma=nan must be a number"),
    "network": ({"backbone": "hf-hub:timm/resnet18"}, "backbone='hf-hub:timm/resnet18' must be the name of a timm"),
    "folder": ({"backbone": "local-dir:/etc"}, "backbone='local-dir:/etc' must be the name of a timm"),
    "long backbone": ({"backbone": "x" * 10**5}, "backbone='xxx.*\\.\\.\\. must be the name of a timm"),
    "escape": ({"backbone": "\x1b[2J"}, r"backbone='\\x1b\[2J' must be"),
    "type": ({"dtype": "load"}, "dtype='load' must be a floating type"),
    "code of the Hub": ({"attn_implementation": "kernels-community/x"}, "has 'eager' and 'sdpa' only"),
    "method": ({"to_dict": 5}, "'to_dict' is no setting"),
    "class": ({"__class__": "x"}, "'__class__' is no setting"),
    "per layer": ({"per_layer_config": {"0": {}}}, "per_layer_config is nothing"),
}
PROCESSORS = {
    "side": ({"size": {"shortest_edge": 10**9}}, "10,000 at most"),
    "area": ({"size": {"height": 200_000, "width": 200_000}}, "10,000 at most"),
    "no sides": ({"size": []}, "size=a list must give sides by their names"),
    "a text": ({"pad_size": "x" * 10**5}, "pad_size='xxx.* must give sides by their names"),
    "rule": ({"size_rule": "x" * 10**5}, "size_rule='xxx.* is none of mmdet, original, transformers"),
    "pad": ({"pad_size": {"height": 10**6, "width": 8}}, "pad_size=.* must have a height and a width from 1 to 10,000"),
    "negative pad": ({"pad_size": {"height": -1, "width": 8}}, "pad_size=.* must have"),
    "resample": ({"resample": 99}, "resample=99 must be"),
    "mean": ({"image_mean": "abc"}, "image_mean='abc' must be a number"),
    "deviation": ({"image_std": [0, 0, 0]}, "image_std=a .* must be a number from 1e-06"),
    "infinite": ({"rescale_factor": float("inf")}, "rescale_factor=inf must be"),
    "switch": ({"do_resize": "yes"}, "do_resize='yes' must be true or false"),
    "detections": ({"top_k": 10**12}, "top_k=1000000000000 must be"),
    "method": ({"preprocess": "x"}, "'preprocess' is no setting"),
    "device": ({"device": "cuda:99"}, "device='cuda:99' is no setting of a saved processor"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_detector(tmp_path_factory.mktemp("models") / "detector")


@pytest.fixture
def with_file(folder):
    """Writes a file of the folder, for one test."""
    before = {}

    def write(name, content):
        file = folder / name
        before[file] = file.read_text() if file.exists() else None
        file.write_text(content)

    yield write
    for file, content in before.items():
        file.unlink()
        if content is not None:
            file.write_text(content)


@pytest.mark.parametrize(("settings", "text"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_is_refused_before_anything_is_built(settings, text):
    with pytest.raises(ValueError, match=text) as caught:
        DeformableDetrRefineConfig.from_dict({**small_config().to_dict(), **settings})
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_new_classes_leave_the_old_ones_ids_behind(folder, tmp_path):
    """As transformers' guides load a model for a fine-tuning: it is saved and loaded again."""
    DeformableDetrRefineForObjectDetection.from_pretrained(folder, category_ids=[3, 5, 9]).save_pretrained(tmp_path)
    names = {0: "cat", 1: "dog"}
    changed = DeformableDetrRefineForObjectDetection.from_pretrained(
        tmp_path, id2label=names, label2id={name: label for label, name in names.items()}, ignore_mismatched_sizes=True
    )
    changed.save_pretrained(tmp_path / "changed")
    again = DeformableDetrRefineForObjectDetection.from_pretrained(tmp_path / "changed")
    assert again.config.id2label == names
    assert LabelMap.from_config(again.config) == LabelMap(("cat", "dog"))
    DeformableDetrRefineForObjectDetection.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)


@pytest.mark.parametrize(("settings", "text"), PROCESSORS.values(), ids=PROCESSORS)
def test_a_processor_is_refused(settings, text):
    with pytest.raises(ValueError, match=text) as caught:
        DeformableDetrRefineImageProcessor(**settings)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_every_number_of_a_config_has_a_range():
    defaults = DeformableDetrRefineConfig()
    own = DeformableDetrRefineConfig.__annotations__
    numbers = {name for name in own if type(getattr(defaults, name)) in (int, float)} - {"num_labels"}
    assert numbers <= setting_checks.INTEGERS.keys() | setting_checks.NUMBERS.keys()
    assert {name for name in own if type(getattr(defaults, name)) is bool} <= set(setting_checks.SWITCHES)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("config.json", f'{{"x": {DEEP}}}', "config.json is not JSON: maximum recursion depth"),
        ("config.json", "[]", "config.json holds a JSON list"),
        ("config.json", '{"x": [' + "[]," * 4_000_000 + "[]]}", "which no settings have"),
        ("preprocessor_config.json", "[]", "preprocessor_config.json holds a JSON list"),
        ("preprocessor_config.json", DEEP, "preprocessor_config.json is not JSON"),
        ("adapter_config.json", '{"base_model_name_or_path": "a/b"}', "holds an adapter"),
    ],
)
def test_files_of_another_form_are_named(folder, with_file, name, content, text):
    with_file(name, content)
    for load in (load_model, load_processor):
        with pytest.raises(CheckpointError, match=text) as caught:
            load(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": [1]}, "has no weight_map"),
        ({"weight_map": {"a": 5}}, "something other than file names"),
        ({"weight_map": {"a": "../other/model.safetensors"}}, "no file of weights in its own folder"),
        ({"weight_map": {"a": "absent.safetensors"}}, "which is not there"),
    ],
)
def test_an_index_of_weights_names_files_of_its_folder(folder, with_file, index, text):
    with_file("model.safetensors.index.json", json.dumps(index))
    (folder / "model.safetensors").rename(folder / "aside")
    try:
        with pytest.raises(CheckpointError, match=text):
            load_model(folder)
    finally:
        (folder / "aside").rename(folder / "model.safetensors")


def test_what_a_config_says_beyond_its_fields_chooses_no_code(folder, with_file):
    values = json.loads((folder / "config.json").read_text())
    strange = {"quantization_config": {"quant_method": "gptq"}, "attn_implementation": "a/b", "to_dict": 5, "secret": 1}
    with_file("config.json", json.dumps({**values, **strange}))
    config = load_model(folder).config
    assert not any(hasattr(config, name) for name in ("quantization_config", "secret"))
    with pytest.raises(ValueError, match="'to_dict' is no setting"):
        DeformableDetrRefineForObjectDetection.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"a": "' + b"x" * 10_000_000 + b'"}', "bytes, which no settings have"),
        (b'{"a": ' + DEEP.encode() + b"}", "is nested more deeply than any settings"),
        (b"[]", "holds no object of names and values"),
        (b'"model_type"', "holds no object of names and values"),
        (b"null", "holds no object of names and values"),
        (b'{"a": "\xe9"}', "is not JSON in UTF-8: 'utf-8' codec can't decode"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON in UTF-8: Exceeds the limit"),
    ],
    ids=["long", "deep", "list", "text", "null", "Latin 1", "long number"],
)
def test_a_file_of_settings_of_another_form_is_one_sentence(tmp_path, text, told):
    for name, loaded in (
        ("config.json", DeformableDetrRefineConfig),
        ("preprocessor_config.json", DeformableDetrRefineImageProcessor),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ValueError, match=rf"^.*{name}.* {told}.*\.$"):
            loaded.from_pretrained(tmp_path)
