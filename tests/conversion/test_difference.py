"""The comparison of two detectors: what passes, and that nothing wrong does."""

from dataclasses import replace

import numpy as np
import pytest

from deformable_detr_refine.conversion.proof.difference import Prediction, compare
from deformable_detr_refine.inference.comparison import RawDetections

TOLERANCE = 1e-4


@pytest.fixture
def prediction() -> Prediction:
    """3 layers, 20 queries, 4 classes, 10 detections of an image of 480x640 pixels."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 200, (10, 4)).astype(np.float32)
    return Prediction(
        references=random.uniform(size=(20, 4)).astype(np.float32),
        logits=random.normal(size=(3, 20, 4)).astype(np.float32),
        boxes=random.uniform(size=(3, 20, 4)).astype(np.float32),
        found=RawDetections(corners, np.linspace(0.9, 0.3, 10, dtype=np.float32), np.arange(10) % 4),
        image_size=(480, 640),
    )


def changed(array: np.ndarray, index: tuple, by: float) -> np.ndarray:
    array = array.copy()
    array[index] += by
    return array


def test_equal_predictions_pass(prediction):
    difference = compare(prediction, prediction, TOLERANCE, match_queries=True)
    assert difference.passed and difference.logits == difference.boxes == difference.box_pixels == 0
    assert difference.starts == difference.queries == 20 and difference.agreeing == difference.detections == 10


def test_two_stage_queries_may_come_in_another_order(prediction):
    order = np.random.default_rng(1).permutation(20)
    shuffled = replace(
        prediction,
        references=prediction.references[order] + 1e-6,
        logits=prediction.logits[:, order],
        boxes=prediction.boxes[:, order],
    )
    assert compare(shuffled, prediction, TOLERANCE, match_queries=True).passed
    assert not compare(shuffled, prediction, TOLERANCE, match_queries=False).passed


@pytest.mark.parametrize("by", [1e-3, np.nan])
@pytest.mark.parametrize(
    ("name", "index"), [("logits", (0, 3, 2)), ("boxes", (1, 7, 0)), ("boxes", (2, 19, 3)), ("references", (5, 1))]
)
def test_a_difference_in_any_layer_fails(prediction, name, index, by):
    wrong = replace(prediction, **{name: changed(getattr(prediction, name), index, by)})
    for ours, theirs in ((wrong, prediction), (prediction, wrong)):
        difference = compare(ours, theirs, TOLERANCE, match_queries=True)
        assert not difference.passed
        if name != "references":
            assert getattr(difference, name) == pytest.approx(by, rel=1e-2, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "index", "by"),
    [("scores", (3,), 1e-3), ("boxes", (3, 0), 0.5), ("labels", (3,), 1), ("boxes", (3, 0), np.nan)],
)
def test_a_wrong_detection_fails(prediction, name, index, by):
    found = prediction.found._replace(**{name: changed(getattr(prediction.found, name), index, by)})
    difference = compare(replace(prediction, found=found), prediction, TOLERANCE, match_queries=True)
    assert not difference.passed and difference.agreeing == 9


def test_detections_of_equal_score_may_come_in_another_order(prediction):
    scores = prediction.found.scores.copy()
    scores[4] = scores[5] + 1e-6
    found = prediction.found._replace(scores=scores)
    swapped = RawDetections(*(np.concatenate((a[:4], a[[5, 4]], a[6:])) for a in found))
    difference = compare(replace(prediction, found=swapped), replace(prediction, found=found), TOLERANCE, True)
    assert difference.passed and difference.agreeing == 10


def test_either_of_two_that_tie_for_the_last_place_may_be_kept(prediction):
    boxes, labels = prediction.found.boxes.copy(), prediction.found.labels.copy()
    boxes[9], labels[9] = (1, 2, 3, 4), 3
    other = replace(prediction, found=RawDetections(boxes, prediction.found.scores, labels))
    difference = compare(other, prediction, TOLERANCE, match_queries=True)
    assert difference.passed and (difference.agreeing, difference.at_the_cut) == (9, 1)


def test_missing_detections_fail(prediction):
    fewer = replace(prediction, found=RawDetections(*(array[:9] for array in prediction.found)))
    none = replace(prediction, found=RawDetections(*(array[:0] for array in prediction.found)))
    assert not compare(fewer, prediction, TOLERANCE, match_queries=True).passed
    assert not compare(none, prediction, TOLERANCE, match_queries=True).passed
    assert compare(none, none, TOLERANCE, match_queries=True).passed


def test_other_detectors_are_an_error(prediction):
    with pytest.raises(ValueError, match=r"logits have shape \(2, 20, 4\) here"):
        compare(replace(prediction, logits=prediction.logits[1:]), prediction, TOLERANCE, match_queries=True)
