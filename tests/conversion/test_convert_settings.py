"""What a bare state dict does not tell, who tells it instead, and what is said about it."""

from pathlib import Path

import pytest

from deformable_detr_refine.conversion import CheckpointError
from deformable_detr_refine.conversion.label_names import COCO_NAMES, choose_names, read_label_file
from deformable_detr_refine.conversion.mmdet.code_base import MMDetection
from deformable_detr_refine.conversion.mmdet.names import NAMES_3X
from deformable_detr_refine.conversion.mmdet_config.facts import describe_config
from deformable_detr_refine.conversion.mmdet_config.text import read_config_text
from deformable_detr_refine.conversion.settings import resolve_settings
from deformable_detr_refine.conversion.shapes import describe_shapes
from deformable_detr_refine.conversion.source import rename
from deformable_detr_refine.conversion.weights import unequal_copies


@pytest.fixture
def resolved(tiny_weights, tiny_config):
    def build(variant, text=False, **flags):
        weights = rename(tiny_weights[variant], NAMES_3X, Path("x"))
        shapes = describe_shapes(weights, "a model", "x")
        facts = describe_config(read_config_text(tiny_config[variant], "text"), "text") if text else None
        return resolve_settings(shapes, facts, flags, unequal_copies(weights.tensors, 2), MMDetection(), "x")

    return build


@pytest.mark.parametrize("variant", ["plain", "refine", "refine_twostage"])
def test_a_bare_state_dict_shows_its_variant(resolved, variant):
    """Plain's copies are equal, refine's never are; the first stage has parameters of its own."""
    found = resolved(variant)
    assert (found.fields["two_stage"], found.fields["with_box_refine"]) == {
        "plain": (False, False),
        "refine": (False, True),
        "refine_twostage": (True, True),
    }[variant]
    told = " ".join(found.assumed)
    assert "with_box_refine" in told and "heads=8" in told and "Image size" in told
    assert ("num_queries=300" in told) == (variant == "refine_twostage")
    assert found.fields["num_queries"] == (300 if variant == "refine_twostage" else 30)


def test_text_tells_everything(resolved):
    found = resolved("refine_twostage", text=True)
    assert found.assumed == [] and found.fields["num_queries"] == 30 and found.fields["encoder_n_points"] == 4


def test_flags_tell_what_is_missing(resolved):
    found = resolved("refine_twostage", num_queries=50, num_heads=4, two_stage=True, with_box_refine=True)
    fields = found.fields
    assert (fields["num_queries"], fields["encoder_attention_heads"], fields["decoder_attention_heads"]) == (50, 4, 4)
    # 128 weights a query are 8 heads * 4 levels * 4 points, or 4 * 4 * 8.
    assert (fields["encoder_n_points"], fields["decoder_n_points"]) == (8, 8)
    assert [sentence for sentence in found.assumed if "Image size" not in sentence] == []


def test_a_flag_may_call_equal_copies_refine(resolved):
    assert resolved("plain", with_box_refine=True).fields["with_box_refine"]
    with pytest.raises(CheckpointError, match="differs from layer 0's"):
        resolved("refine", with_box_refine=False)


def test_class_names_are_taken_from_the_best_source(tmp_path):
    names = ["x", "y"]
    assert choose_names(2, [(None, "a"), (names, "b"), (["p", "q"], "c")], "file") == (names, "b")
    assert choose_names(80, [], "file")[0] == list(COCO_NAMES) and len(set(COCO_NAMES)) == 80
    assert choose_names(2, [], "file")[0] == ["LABEL_0", "LABEL_1"]
    for text in ("x\n y \n\n", '["x", "y"]', "\ufeffx\r\ny\r\n"):
        (tmp_path / "names").write_text(text, encoding="utf-8")
        assert read_label_file(tmp_path / "names") == names
