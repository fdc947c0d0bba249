"""Files that are odd rather than hostile end in one sentence, and what is secret in an address is not written down."""

import json

import pytest

from deformable_detr_refine.conversion import CheckpointError, convert_checkpoint
from deformable_detr_refine.conversion.detrex.config import describe_config
from deformable_detr_refine.conversion.original.code_base import _facts
from deformable_detr_refine.conversion.section import Section
from deformable_detr_refine.conversion.stock.processor import size_rule


def test_a_list_of_lists_as_a_target_is_refused_at_once():
    """Aliases of YAML make one that has more leaves than can be written out."""
    bomb = ["x"] * 9
    for _ in range(30):
        bomb = [bomb] * 9
    with pytest.raises(CheckpointError, match="not DeformableDETR"):
        describe_config({"model": {"_target_": bomb}}, "config.yaml")
    model = {"_target_": "a.DeformableDETR", "backbone": {"_target_": bomb}, "transformer": {"_target_": bomb}}
    with pytest.raises(CheckpointError, match="this package has only"):
        describe_config({"model": model}, "config.yaml")


@pytest.mark.parametrize("version", ["\u00b2", "9" * 5000, "", "4"])
def test_a_version_that_is_none_is_no_version(version):
    assert size_rule(version) == "transformers"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "detr"}, "of a model of type detr"),
        ({"model_type": "deformable_detr", "architectures": 5, "transformers_version": "\u00b2"}, "odd"),
    ],
)
def test_an_odd_folder_is_refused_in_one_sentence(config, said, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match=said):
        convert_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"adapter_config.json": "{}", "adapter_model.safetensors": "", "rng_state.pth": ""},
            "an adapter and not",
        ),
        ({"checkpoint-9/config.json": "{}", "checkpoint-12/config.json": "{}"}, "takes one: give .*/odd/checkpoint-12"),
        (
            {"config.json": '{"model_type": "detr"}', "model.safetensors": "", "rng_state.pth": ""},
            "a model of type detr",
        ),
        ({"rng_state.pth": "", "optimizer.pt": ""}, "holds no weights in a form that is known"),
    ],
)
def test_what_a_training_leaves_that_is_no_model_is_said(files, said, tmp_path):
    for name, text in files.items():
        (tmp_path / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "odd" / name).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        convert_checkpoint(tmp_path / "odd", tmp_path / "out")


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 10**400])
def test_numbers_without_sense_are_none(number):
    section = Section({"class_cost": number}, "", "config.json")
    with pytest.raises(CheckpointError, match=r"class_cost is .*, not a number"):
        section.number("class_cost")


def test_args_may_be_a_plain_dictionary(tmp_path):
    """As forks save them; what they say is heeded."""
    args = {"nheads": 4, "dilation": True}
    facts, speaker = _facts(args, None, tmp_path)
    assert speaker == "the checkpoint's own args" and facts is not None
    assert facts.fields["dilation"] is True and facts.fields["encoder_attention_heads"] == 4
