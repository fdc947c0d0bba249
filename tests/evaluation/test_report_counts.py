"""What the report counts: COCO's matching box by box, curves, the best threshold, confusions and kinds of error."""

import dataclasses

import numpy as np
import pytest
from support.evaluated_images import one_image, random_images

from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
from deformable_detr_refine.evaluation.metrics.confusion import confusion_matrix
from deformable_detr_refine.evaluation.metrics.curves import (
    THRESHOLDS,
    TOLERANCE,
    best_threshold,
    f1_curve,
    precision_curve,
)
from deformable_detr_refine.evaluation.metrics.error_kinds import KINDS, box_kinds, error_kinds
from deformable_detr_refine.evaluation.metrics.matching import NONE, ON_CROWD, match

NAMES = ("a", "b", "c", "d")
seeds = pytest.mark.parametrize("seed", range(4))


def perfect(images):
    """The truth, crowds left out, found with certainty."""
    return [
        dataclasses.replace(
            image,
            boxes=image.true_boxes[~image.true_crowd],
            scores=np.ones((~image.true_crowd).sum()),
            labels=image.true_labels[~image.true_crowd],
        )
        for image in images
    ]


def f1_by_counting(matches, threshold):
    kept = (matches.scores > threshold) & (matches.truths[0] != ON_CROWD)
    found = (matches.truths[0][kept] >= 0).sum()
    return 2 * found / (kept.sum() + len(matches.true_labels))


def judged(matches):
    """Scores and whether right, of what is not on a crowd."""
    counted = matches.truths[0] != ON_CROWD
    return matches.scores[counted], matches.truths[0][counted] >= 0


@seeds
@pytest.mark.parametrize("elsewhere", [12, 400], ids=["few", "more than COCO judges"])
def test_precision_curves_have_the_aps_of_cocoeval(seed, elsewhere):
    images = random_images(seed, 20, elsewhere=elsewhere)
    matches = match(images, (0.5, 0.75))
    per_class = coco_metrics(images, NAMES, "pycocotools")["per_class"]
    for label, name in enumerate(NAMES[:3]):
        for truths, key in zip(matches.truths, ("AP50", "AP75"), strict=True):
            correct = truths[(matches.labels == label) & (truths != ON_CROWD)] >= 0
            curve = precision_curve(correct, per_class[name]["objects"])
            assert curve.mean() == pytest.approx(per_class[name][key], abs=1e-12)
            assert (np.diff(curve) <= 0).all()
        assert (matches.true_labels == label).sum() == per_class[name]["objects"]


@seeds
def test_the_order_of_images_does_not_matter(seed):
    images = random_images(seed)
    matches, again = match(images), match(images[::-1])
    for field in dataclasses.fields(matches):
        assert np.array_equal(getattr(matches, field.name), getattr(again, field.name)), field.name


@seeds
def test_each_object_is_found_once_by_a_box_of_its_class(seed):
    matches = match(random_images(seed))
    found = matches.truths[0] >= 0
    truths = matches.truths[0][found]
    assert len(set(truths)) == len(truths) > 0
    assert (matches.true_labels[truths] == matches.labels[found]).all()
    assert (matches.true_images[truths] == matches.images[found]).all()


@seeds
def test_the_best_threshold_keeps_what_gives_the_highest_f1(seed):
    matches = match(random_images(seed))
    objects = len(matches.true_labels)
    best = best_threshold(*judged(matches), objects)
    highest = max(f1_by_counting(matches, threshold) for threshold in (0, *matches.scores))
    assert best.f1 >= highest - TOLERANCE
    assert best.f1 == pytest.approx(f1_by_counting(matches, best.threshold))
    assert best.f1 == pytest.approx(2 / (1 / best.precision + 1 / best.recall))
    curve = f1_curve(*judged(matches), objects)
    assert curve == pytest.approx([f1_by_counting(matches, np.float32(threshold)) for threshold in THRESHOLDS])


@pytest.mark.parametrize(
    ("scores", "correct", "objects", "threshold"),
    [
        ([0.9, 0.7, 0.2], [1, 1, 0], 2, 0.4),
        ([0.2, 0.9, 0.7], [0, 1, 1], 2, 0.4),
        ([0.5, 0.5, 0.5], [1, 0, 1], 2, 0.2),
        ([0.7312, 0.7311], [1, 0], 1, 0.73115),
        ([1.0], [1], 1, 0.5),
        ([0.0], [1], 1, None),
        ([0.9], [0], 1, None),
        ([0.9], [0], 0, None),
        ([], [], 3, None),
    ],
)
def test_the_best_threshold_is_short_and_stands_between_scores(scores, correct, objects, threshold):
    scores, correct = np.array(scores, dtype=np.float32), np.array(correct, dtype=bool)
    assert best_threshold(scores, correct, objects).threshold == threshold


def test_perfect_predictions_have_no_errors():
    images = perfect(random_images(0))
    matches = match(images)
    objects = np.bincount(matches.true_labels, minlength=len(NAMES))
    best = best_threshold(*judged(matches), objects.sum())
    assert (best.f1, best.precision, best.recall) == (1, 1, 1)
    assert (confusion_matrix(matches, NAMES, best.threshold) == np.diag([*objects, 0])).all()
    assert all(error.count == 0 and error.cost == 0 for error in error_kinds(matches, NAMES, best.threshold).values())


@seeds
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_the_confusion_matrix_counts_every_object_and_every_box_once(seed, threshold):
    matches = match(random_images(seed))
    matrix = confusion_matrix(matches, NAMES, threshold)
    kept = (matches.scores > threshold) & (matches.truths[0] != ON_CROWD)
    assert matrix[:-1].sum(1).tolist() == np.bincount(matches.true_labels, minlength=len(NAMES)).tolist()
    assert matrix[:, :-1].sum(0).tolist() == np.bincount(matches.labels[kept], minlength=len(NAMES)).tolist()
    found = matches.labels[kept & (matches.truths[0] >= 0)]
    assert np.diag(matrix).tolist() == [*np.bincount(found, minlength=len(NAMES)).tolist(), 0]


def test_boxes_of_a_wrong_class_stand_off_the_diagonal():
    images = [dataclasses.replace(image, labels=(image.labels + 1) % 4) for image in perfect(random_images(0))]
    # Objects of several classes in one place could be found by each other's boxes.
    images = [image for image in images if match([image]).truths[0].max(initial=NONE) == NONE]
    matches = match(images)
    matrix = confusion_matrix(matches, NAMES, 0.5)
    objects = np.bincount(matches.true_labels, minlength=len(NAMES))
    assert objects.sum() > 50
    assert [matrix[i, (i + 1) % 4] for i in range(4)] == objects.tolist()
    assert matrix.sum() == objects.sum()


def test_an_object_has_one_partner_the_best_box():
    box = [10, 10, 50, 50]
    image = one_image([box] * 3, labels=[1, 1, 2], true_boxes=[box])
    expected = np.zeros((5, 5), dtype=int)
    expected[0, 1] = expected[4, 1] = expected[4, 2] = 1
    assert (confusion_matrix(match([image]), NAMES, 0.1) == expected).all()


TRUE = [10, 10, 50, 50]
SHIFTED = [30, 10, 70, 50]  # IoU 1/3
NUDGED = [34, 34, 74, 74]  # IoU 0.087
FAR = [60, 60, 90, 90]


@pytest.mark.parametrize(
    ("boxes", "labels", "expected"),
    [
        ([TRUE], [0], {}),
        ([TRUE, TRUE], [0, 0], {"duplicate": 1}),
        ([TRUE, TRUE, TRUE], [0, 0, 0], {"duplicate": 2}),
        ([TRUE], [1], {"classification": 1}),
        ([SHIFTED], [0], {"localisation": 1}),
        ([SHIFTED], [1], {"both": 1, "missed": 1}),
        ([FAR], [0], {"background": 1, "missed": 1}),
        ([NUDGED], [0], {"background": 1, "missed": 1}),
        ([], [], {"missed": 1}),
        ([TRUE, SHIFTED, TRUE, FAR], [0, 0, 1, 1], {"localisation": 1, "classification": 1, "background": 1}),
    ],
)
def test_each_error_is_of_its_kind(boxes, labels, expected):
    errors = error_kinds(match([one_image(boxes, labels=labels, true_boxes=[TRUE])]), NAMES)
    assert {kind: error.count for kind, error in errors.items() if error.count} == expected
    assert list(errors) == list(KINDS)


def test_boxes_on_crowds_are_no_errors():
    image = one_image([TRUE, SHIFTED], true_boxes=[[0, 0, 100, 100]], crowd=[True])
    assert not any(error.count for error in error_kinds(match([image]), NAMES).values())
    assert confusion_matrix(match([image]), NAMES, 0.1).sum() == 0


@seeds
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_every_wrong_box_is_of_one_kind(seed, threshold):
    matches = match(random_images(seed))
    errors = error_kinds(matches, NAMES, threshold)
    wrong = (matches.scores > threshold) & (matches.truths[0] == NONE)
    assert sum(error.count for kind, error in errors.items() if kind != "missed") == wrong.sum()
    assert ((box_kinds(matches) == NONE) == (matches.truths[0] != NONE)).all()
    assert all(0 <= error.cost <= 1 for error in errors.values())
    assert errors == error_kinds(match(random_images(seed)[::-1]), NAMES, threshold)


# Boxes far apart, so that an error made on purpose is no other one.
GRID = np.array([[x, y, x + 20, y + 20] for x in (0, 60) for y in (0, 60)], dtype=float)


@pytest.mark.parametrize("kind", ["classification", "localisation", "duplicate", "background", "missed"])
def test_mending_the_only_kind_of_error_makes_ap50_one(kind):
    labels, scores, boxes = np.arange(4) % 2, np.linspace(0.6, 0.9, 4), GRID.copy()
    if kind == "classification":
        labels = np.append(1 - labels[:1], labels[1:])
    elif kind == "localisation":
        boxes[0] += [10, 0, 10, 0]
    elif kind == "duplicate":
        boxes, labels, scores = np.append(boxes, boxes, 0), np.append(labels, labels), np.append(scores, scores - 0.15)
    elif kind == "background":
        boxes, labels, scores = np.append(boxes, GRID[:1] + 30, 0), np.append(labels, 0), np.append(scores, 0.95)
    elif kind == "missed":
        boxes, labels, scores = boxes[1:], labels[1:], scores[1:]
    images = [one_image(boxes, scores, labels, GRID, np.arange(4) % 2)]
    ap50 = coco_metrics(images, NAMES)["AP50"]
    errors = error_kinds(match(images), NAMES)
    assert [name for name, error in errors.items() if error.count] == [kind]
    assert 0 < ap50 < 1
    assert {name: error.cost for name, error in errors.items() if error.cost} == {kind: pytest.approx(1 - ap50)}
