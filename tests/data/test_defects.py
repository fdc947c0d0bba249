"""The checks of boxes find what is there, and what is said of it is fit for a person and a terminal."""

import numpy as np
import pytest

from deformable_detr_refine.data.defects import (
    BoxFault,
    DataError,
    Defect,
    box_faults,
    count_defects,
    fault_text,
    refuse_losses,
)
from deformable_detr_refine.messages import described, printable

NONE, NOT_FINITE, SWAPPED, NO_AREA, OUTSIDE, PARTLY = BoxFault


def fault_of(box, size) -> BoxFault:
    """The rule, box by box."""
    x, y, w, h = box
    if not np.isfinite([x, y, w, h]).all():
        return NOT_FINITE
    if w < 0 or h < 0:
        return SWAPPED
    if w == 0 or h == 0:
        return NO_AREA
    if x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0:
        return OUTSIDE
    if x < -0.5 or y < -0.5 or x + w > size[0] + 0.5 or y + h > size[1] + 0.5:
        return PARTLY
    return NONE


def test_every_fault_is_found_as_the_rule_has_it():
    random = np.random.default_rng(0)
    choices = np.array([-40, -1, -0.5, -0.25, 0, 0.25, 1, 10, 20, 20.25, 20.5, 21, 40, np.nan, np.inf, -np.inf])
    boxes = random.choice(choices, (4000, 4), p=[0.074] * 13 + [0.0127, 0.0127, 0.0126])
    sizes = random.choice([10, 20], (4000, 2))
    with np.errstate(invalid="ignore"):
        expected = [fault_of(box, size) for box, size in zip(boxes, sizes, strict=True)]
    found = box_faults(boxes, sizes)
    assert found.tolist() == expected
    assert set(found.tolist()) == set(BoxFault)


def test_no_boxes_have_no_faults():
    assert box_faults(np.zeros((0, 4)), np.zeros((0, 2))).shape == (0,)


def test_numbers_that_float32_cannot_hold_are_refused():
    boxes = np.array([[1e300, 0, 1, 1], [0, 0, 1e300, 1], [-1e300, 0, 1e300, 1], [0, -1e12, 1, 2e12]])
    assert (box_faults(boxes, np.full((4, 2), 10)) == NOT_FINITE).all()


@pytest.mark.parametrize("fault", list(BoxFault)[1:], ids=lambda fault: fault.kind)
def test_every_fault_has_a_sentence_with_the_numbers(fault):
    text = fault_text(fault, "can", (1, 2.5, -3, 0), (40, 30))
    assert text.startswith("the box of can ") and "x 1, y 2.5, width -3, height 0" in text
    assert fault.loses == ("" if fault is PARTLY else "object")


def test_what_would_be_lost_is_refused_in_one_message():
    lost = [Defect("no area", f"a.xml:{line}", "a.jpg", "no area") for line in range(1, 9)]
    kept = Defect("partly outside", "a.xml:99", "a.jpg", "over the edge", loses="")
    image = Defect("absent image", "b.xml:1", "b.jpg", "not there", loses="image")
    refuse_losses([kept], "set")
    with pytest.raises(DataError) as error:
        refuse_losses([*lost, kept, image], "set")
    text = str(error.value)
    assert text.startswith("set: 1 image and 8 objects would be lost (no area 8, absent image 1); ")
    assert 'defects="skip"' in text and "a.xml:1: no area" in text and "... and 4 more" in text
    assert "a.xml:99" not in text
    assert count_defects([*lost, kept, image]) == {"no area": 8, "partly outside": 1, "absent image": 1}


def test_values_out_of_a_data_set_are_shown_in_bounds():
    bomb: list = ["x"]
    for _ in range(60):
        bomb = [bomb] * 9
    assert len(described(bomb)) <= 100
    assert len(described("x" * 10**7)) <= 100
    assert len(printable("x" * 10**7)) == 100
    assert "\x1b" not in described({"\x1b[2J": "\n"})
