"""Precision over recall, F1 over the score threshold, and the threshold where F1 is highest."""

from dataclasses import dataclass

import numpy as np

RECALLS = np.linspace(0, 1, 101)
# As float32, in which detectors compare.
THRESHOLDS = np.linspace(0, 1, 101, dtype=np.float32)
# What a threshold may lose of the highest F1 to be a shorter number.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class BestThreshold:
    """The score above which boxes are kept for the best F1, and what is reached with it.

    `threshold` is None where no box is right, whatever is kept.
    """

    threshold: float | None
    f1: float
    precision: float
    recall: float


def precision_curve(correct: np.ndarray, objects: int) -> np.ndarray:
    """COCO's curve: the best precision at this recall or a higher one.

    Args:
        correct: (D,) whether each detection is right, by falling score.
        objects: how many there are to be found, at least one.

    Returns:
        (101,) precision at recall 0, 0.01 ... 1; their mean is COCO's AP at this IoU.

    Example:
        >>> precision_curve(np.array([True, False, True]), 2)[[0, 50, 51, 100]].round(3).tolist()
        [1.0, 1.0, 0.667, 0.667]
    """
    right = np.cumsum(correct, dtype=np.float64)
    # COCOeval adds the smallest float too.
    precision = right / (np.arange(1, len(right) + 1) + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, RECALLS, side="left")
    return np.append(precision, 0.0)[places]


def f1_curve(scores: np.ndarray, correct: np.ndarray, objects: int) -> np.ndarray:
    """F1 when the boxes with a score above 0, 0.01 ... 1 are kept, (101,)."""
    order = np.argsort(-scores, kind="stable")
    kept = len(scores) - np.searchsorted(scores[order][::-1], THRESHOLDS, side="right")
    right = np.append(0, np.cumsum(correct[order]))[kept]
    return 2 * right / np.maximum(kept + objects, 1)


def best_threshold(scores: np.ndarray, correct: np.ndarray, objects: int) -> BestThreshold:
    """The score threshold with the highest F1, to as few digits as leave it within `TOLERANCE`.

    Args:
        scores: (D,) float32, in any order; a box is kept if its score is above the threshold.
        correct: (D,) whether each detection is right. COCO's matching goes by falling score, so that dropping boxes
            at the end leaves the others as they are.
        objects: how many there are to be found.

    Example:
        >>> best_threshold(np.array([0.9, 0.7, 0.2]), np.array([True, True, False]), 2)
        BestThreshold(threshold=0.4, f1=1.0, precision=1.0, recall=1.0)
    """
    order = np.argsort(-scores, kind="stable")
    scores, correct = scores[order], correct[order]
    right = np.append(0, np.cumsum(correct))
    f1 = 2 * right / np.maximum(np.arange(len(right)) + objects, 1)
    # Boxes of one score stay or go together, and nothing is above a threshold of 0 with a score of 0.
    following = np.append(scores[1:], 0.0).clip(0)
    f1[1:][scores <= following] = 0
    best = int(f1.argmax())
    if f1[best] == 0:
        return BestThreshold(None, 0.0, 0.0, 0.0)
    low, high = float(following[best - 1]), float(scores[best - 1])
    threshold, kept = low, best
    for shorter in (round((low + high) / 2, digits) for digits in range(1, 9)):
        count = np.count_nonzero(scores > shorter)
        if f1[count] >= f1[best] - TOLERANCE:
            threshold, kept = shorter, count
            break
    return BestThreshold(threshold, float(f1[kept]), float(right[kept] / kept), float(right[kept] / objects))


__all__ = ["RECALLS", "THRESHOLDS", "TOLERANCE", "BestThreshold", "best_threshold", "f1_curve", "precision_curve"]
