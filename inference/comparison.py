"""How far two detectors are apart on one image. Q queries, K classes, N detections."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment


class Found(NamedTuple):
    """Final detections of one image, best first; boxes xyxy in pixels of the original image."""

    boxes: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,)


@dataclass(frozen=True)
class Prediction:
    """What a detector computed for one image; boxes and references in 0..1 of the image itself."""

    references: np.ndarray  # (Q, 4) cxcywh, or (Q, 2) points: where the decoder starts
    logits: np.ndarray  # (layers, Q, K)
    boxes: np.ndarray  # (layers, Q, 4) cxcywh
    found: Found
    image_size: tuple[int, int]  # (height, width) of the original image


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences between two predictions, queries matched by where they start.

    Attributes:
        starts: queries that start at the same place (within the tolerance), of `queries`.
        logits, boxes: over all decoder layers; boxes in 0..1 of the image.
        scores, box_pixels: over matched detections; pixels of the original image.
        agreeing: detections with an equal partner (label, score, box), of `detections`.
        at_the_cut: of the others, those whose score ties with the last one kept, where either may be left out.
        box_tolerance: how far corners may be apart, in pixels.
        tolerance: for all else.
    """

    starts: int
    queries: int
    logits: float
    boxes: float
    scores: float
    box_pixels: float
    agreeing: int
    at_the_cut: int
    detections: int
    box_tolerance: float
    tolerance: float

    @property
    def same_starts(self) -> bool:
        return self.starts == self.queries

    @property
    def passed(self) -> bool:
        # `<=` and not its negation: NaN fails.
        return (
            self.same_starts
            and self.logits <= self.tolerance
            and self.boxes <= self.tolerance
            and self.scores <= self.tolerance
            and self.box_pixels <= self.box_tolerance
            and self.agreeing + self.at_the_cut == self.detections
        )


def compare(ours: Prediction, theirs: Prediction, tolerance: float, match_queries: bool) -> Difference:
    """Compares two predictions for the same image.

    Args:
        tolerance: for logits, scores, and boxes in 0..1 of the image.
        match_queries: pair queries by reference instead of by number. For two-stage detectors, whose queries are a
            ranking: two proposals of nearly equal score may swap places from one build of PyTorch to another.

    Raises:
        ValueError: the shapes differ, so these are not the same detector.
    """
    for name in ("references", "logits", "boxes"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if a.shape != b.shape:
            raise ValueError(f"{name} have shape {a.shape} here and {b.shape} in MMDetection: not the same detector.")
    order = np.arange(len(ours.references))
    if match_queries:
        order = matching_order(ours.references, theirs.references)
    same = np.abs(ours.references - theirs.references[order]).max(-1) <= tolerance
    # A corner is made of centre and half a side: two numbers that may be off.
    box_tolerance = 1.5 * tolerance * max(ours.image_size)
    return Difference(
        starts=int(same.sum()),
        queries=len(order),
        logits=_largest(ours.logits - theirs.logits[:, order]),
        boxes=_largest(ours.boxes - theirs.boxes[:, order]),
        **compare_found(ours.found, theirs.found, tolerance, box_tolerance),
        box_tolerance=box_tolerance,
        tolerance=tolerance,
    )


def matching_order(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """For each of our references (Q, D) the number of theirs (Q, D) that it pairs with, at least distance in all."""
    distance = np.abs(ours[:, None] - theirs[None]).sum(-1)
    return linear_sum_assignment(np.nan_to_num(distance, nan=1e6))[1]


def compare_found(ours: Found, theirs: Found, tolerance: float, box_tolerance: float) -> dict[str, float | int]:
    """The part of a `Difference` that is about final detections, matched at least distance in all.

    Args:
        tolerance: of scores.
        box_tolerance: of corners, in the unit of the boxes.
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
        "scores": _largest(scores[a, b][counted]),
        "box_pixels": _largest(pixels[a, b][counted]),
        "agreeing": int(agrees.sum()),
        "at_the_cut": int(tied.sum()),
        "detections": count,
    }


def _largest(difference: np.ndarray) -> float:
    return float(np.abs(difference).max()) if difference.size else 0.0


__all__ = ["Difference", "Found", "Prediction", "compare", "compare_found", "matching_order"]
