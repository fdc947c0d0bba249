"""How far two detectors are apart on one image, layer by layer. Q queries, K classes."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from deformable_detr_refine.inference.comparison import RawDetections, compare_detections, largest

# Logits and boxes in fp32: what builds of PyTorch differ by stays a tenth of it.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Prediction:
    """What a detector computed for one image; boxes and references in 0..1 of the image itself."""

    references: np.ndarray  # (Q, 4) cxcywh, or (Q, 2) points: where the decoder starts
    logits: np.ndarray  # (layers, Q, K)
    boxes: np.ndarray  # (layers, Q, 4) cxcywh
    found: RawDetections
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
            raise ValueError(f"{name} have shape {a.shape} here and {b.shape} there: not the same detector.")
    order = np.arange(len(ours.references))
    if match_queries:
        order = matching_order(ours.references, theirs.references)
    same = np.abs(ours.references - theirs.references[order]).max(-1) <= tolerance
    # A corner is made of centre and half a side: two numbers that may be off.
    box_tolerance = 1.5 * tolerance * max(ours.image_size)
    return Difference(
        starts=int(same.sum()),
        queries=len(order),
        logits=largest(ours.logits - theirs.logits[:, order]),
        boxes=largest(ours.boxes - theirs.boxes[:, order]),
        **compare_detections(ours.found, theirs.found, tolerance, box_tolerance),
        box_tolerance=box_tolerance,
        tolerance=tolerance,
    )


def matching_order(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """For each of our references (Q, D) the number of theirs (Q, D) that it pairs with, at least distance in all."""
    distance = np.abs(ours[:, None] - theirs[None]).sum(-1)
    return linear_sum_assignment(np.nan_to_num(distance, nan=1e6))[1]


__all__ = ["TOLERANCE", "Difference", "Prediction", "compare", "matching_order"]
