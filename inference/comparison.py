"""How far the detections of two detectors in one image are apart. N detections."""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment


class RawDetections(NamedTuple):
    """Final detections of one image, best first; boxes xyxy in pixels of the original image."""

    boxes: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,)


def compare_detections(
    ours: RawDetections, theirs: RawDetections, tolerance: float, box_tolerance: float
) -> dict[str, Any]:
    """Matches the detections of two detectors, at least distance in all, and says how far they are apart.

    Args:
        tolerance: of scores.
        box_tolerance: of corners, in the unit of the boxes.

    Returns:
        `scores`, `box_pixels`: largest differences of matched detections; corners in the unit of the boxes.
        `agreeing`: detections with an equal partner (label, score, box), of `detections`.
        `at_the_cut`: of the others, those whose score ties with the last one kept, where either may be left out.
    """
    count = max(len(ours.scores), len(theirs.scores))
    if not len(ours.scores) or not len(theirs.scores):
        return {"scores": 0.0, "box_pixels": 0.0, "agreeing": 0, "at_the_cut": 0, "detections": count}
    scores = np.abs(ours.scores[:, None] - theirs.scores[None])
    pixels = np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(-1)
    other_label = ours.labels[:, None] != theirs.labels[None]
    # In tolerances, so that score and box weigh the same; another label costs more than any distance that counts.
    cost = np.maximum(scores / tolerance, pixels / box_tolerance)
    cost = np.where(other_label, 1e9, np.minimum(np.nan_to_num(cost, nan=1e8), 1e8))
    a, b = linear_sum_assignment(cost)
    agrees = cost[a, b] <= 1
    cut = max(ours.scores.min(), theirs.scores.min()) + tolerance
    tied = ~agrees & (ours.scores[a] <= cut) & (theirs.scores[b] <= cut) & (len(ours.scores) == len(theirs.scores))
    counted = ~tied & ~other_label[a, b]
    return {
        "scores": largest(scores[a, b][counted]),
        "box_pixels": largest(pixels[a, b][counted]),
        "agreeing": int(agrees.sum()),
        "at_the_cut": int(tied.sum()),
        "detections": count,
    }


def largest(difference: np.ndarray) -> float:
    """The largest absolute difference; 0 of none."""
    return float(np.abs(difference).max()) if difference.size else 0.0


__all__ = ["RawDetections", "compare_detections", "largest"]
