"""What kind of error each wrong box and each missed object is, and what AP50 each kind costs.

The kinds are those of TIDE (Bolya, Foley, Hays, Hoffman: A General Toolbox for Identifying Object Detection Errors,
ECCV 2020), tested in the order of its authors' program, with its thresholds of IoU, 0.5 and 0.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .curves import precision_curve
from .matching import NONE, Matches

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = {
    "classification": "on an object, but of another class (IoU from 0.5)",
    "localisation": "of the right class, but badly placed (IoU 0.1 to 0.5)",
    "both": "of another class and badly placed (IoU 0.1 to 0.5)",
    "duplicate": "on an object that a box with a higher score has found",
    "background": "where there is no object (IoU below 0.1)",
    "missed": "object that no box stands for, be it of the wrong class or badly placed",
}
_NAMES = list(KINDS)
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, NOTHING_THERE, MISSED = range(len(_NAMES))


@dataclass(frozen=True)
class ErrorKind:
    """How often an error of one kind occurs above the threshold, and how much AP50 would rise without it."""

    count: int
    cost: float


def error_kinds(matches: Matches, names: Sequence[str], threshold: float = 0.0) -> dict[str, ErrorKind]:
    """Sorts all errors into `KINDS`.

    The cost mends one kind alone, over all boxes whatever their score, as AP counts them: a box of the wrong class or
    badly placed becomes right (the best one, if several are meant for one object that is not found otherwise; the
    others go), other wrong boxes go, missed objects are not asked for.

    Args:
        matches: made at IoU 0.5 first: `match(images)`.
        names: the name of every class label.
        threshold: for the counts, boxes with a score above it are kept.

    Example:
        >>> from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage
        >>> from deformable_detr_refine.evaluation.metrics.matching import match
        >>> box = [8, 4, 40, 20]
        >>> image = EvaluatedImage(7, "a.jpg", (32, 64), [box, box], [0.75, 0.5], [0, 0], [box], [0])
        >>> error_kinds(match([image]), ["can"])["duplicate"]
        ErrorKind(count=1, cost=0.0)
    """
    kinds, missed = box_kinds(matches), missed_objects(matches, threshold)
    kept = matches.scores > threshold
    counts = [np.count_nonzero(kept & (kinds == kind)) for kind in range(MISSED)] + [np.count_nonzero(missed)]
    before = _mean_ap(matches, names)
    costs = [_mean_ap(matches, names, kind) - before for kind in range(len(_NAMES))]
    # Interpolation can make the mended curve a hair lower.
    return {name: ErrorKind(int(counts[i]), max(float(costs[i]), 0.0)) for i, name in enumerate(_NAMES)}


def box_kinds(matches: Matches) -> np.ndarray:
    """(D,) the number of each wrong box's kind, NONE for right ones and those on crowds."""
    own, other = matches.own_iou, matches.other_iou
    rules = {
        LOCALISATION: (own >= BACKGROUND) & (own < FOREGROUND),
        CLASSIFICATION: other >= FOREGROUND,
        DUPLICATE: own >= FOREGROUND,
        NOTHING_THERE: np.maximum(own, other) < BACKGROUND,
    }
    kinds = np.select(list(rules.values()), list(rules), BOTH)
    return np.where(matches.truths[0] == NONE, kinds, NONE)


def missed_objects(matches: Matches, threshold: float = -1.0) -> np.ndarray:
    """(G,) whether no box above the threshold finds the object, or would but for its class or its place."""
    missed = np.ones(len(matches.true_labels), dtype=bool)
    kinds, kept = box_kinds(matches), matches.scores > threshold
    missed[matches.truths[0][kept & (matches.truths[0] >= 0)]] = False
    missed[matches.other_truth[kept & (kinds == CLASSIFICATION)]] = False
    missed[matches.own_truth[kept & (kinds == LOCALISATION)]] = False
    return missed


def _mean_ap(matches: Matches, names: Sequence[str], mended: int = NONE) -> float:
    """AP50, mean over classes with objects, after errors of one kind are mended."""
    kinds, labels = box_kinds(matches), matches.labels.copy()
    correct = matches.truths[0] >= 0
    kept = correct | (matches.truths[0] == NONE) & (kinds != mended)
    if mended in (CLASSIFICATION, LOCALISATION):
        meant = matches.other_truth if mended == CLASSIFICATION else matches.own_truth
        has_box = np.zeros(len(matches.true_labels), dtype=bool)
        has_box[matches.truths[0][correct]] = True
        boxes = np.flatnonzero(kinds == mended)
        boxes = boxes[~has_box[meant[boxes]]]
        truths, first = np.unique(meant[boxes], return_index=True)
        kept[boxes[first]] = correct[boxes[first]] = True
        labels[boxes[first]] = matches.true_labels[truths]
    asked = np.ones(len(matches.true_labels), dtype=bool) if mended != MISSED else ~missed_objects(matches)

    with_objects = np.bincount(matches.true_labels, minlength=len(names)) > 0
    objects = np.bincount(matches.true_labels[asked], minlength=len(names))
    curves = []
    for label in np.flatnonzero(with_objects):
        chosen = correct[kept & (labels == label)]
        # A class none of whose objects is asked for any more has nothing wrong but its boxes.
        curves.append(precision_curve(chosen, objects[label]).mean() if objects[label] else float(not len(chosen)))
    return float(np.mean(curves)) if curves else 0.0


__all__ = ["KINDS", "ErrorKind", "box_kinds", "error_kinds", "missed_objects"]
