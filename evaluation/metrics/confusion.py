"""The confusion matrix of a detector: which class is taken for which, what is missed, and what is found in nothing."""

from collections.abc import Sequence

import numpy as np

from .matching import NONE, Matches


def confusion_matrix(matches: Matches, names: Sequence[str], threshold: float, iou: float = 0.5) -> np.ndarray:
    """Counts true classes against found ones, over the boxes with a score above the threshold.

    The pairs that COCO's matching makes are the diagonal, so that the matrix agrees with precision and recall. Then,
    by falling score, a box left takes the object of another class that it overlaps most, if that suffices and the
    object is left too. What is left after that stands in the last column (missed) and the last row (nothing there).

    Args:
        matches: made at this IoU first: `match(images, (iou,))`.
        names: the name of every class label, K of them.

    Returns:
        (K + 1, K + 1) int64, row: true class, column: found class, K: background. Crowds, and boxes on them, are not
        counted.

    Example:
        >>> from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage
        >>> from deformable_detr_refine.evaluation.metrics.matching import match
        >>> boxes = [[8, 4, 40, 20], [0, 20, 9, 30]]
        >>> image = EvaluatedImage(7, "a.jpg", (32, 64), boxes, [0.75, 0.5], [1, 0], boxes[:1], [0])
        >>> confusion_matrix(match([image]), ["can", "carton"], threshold=0.3).tolist()
        [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    """
    kept = matches.scores > threshold
    truths = matches.truths[0]
    # The true object each kept box goes with; for the others NONE.
    partner = np.where(kept & (truths >= 0), truths, NONE)
    free = np.ones(len(matches.true_labels), dtype=bool)
    free[partner[partner >= 0]] = False
    left = np.flatnonzero(kept & (truths == NONE) & (matches.other_iou >= iou))
    left = left[free[matches.other_truth[left]]]
    # Boxes are sorted by score: the first to want an object gets it.
    taken, first = np.unique(matches.other_truth[left], return_index=True)
    partner[left[first]] = taken
    free[taken] = False

    background = len(names)
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    paired = partner >= 0
    np.add.at(matrix, (matches.true_labels[partner[paired]], matches.labels[paired]), 1)
    np.add.at(matrix[:, background], matches.true_labels[free], 1)
    np.add.at(matrix[background], matches.labels[kept & ~paired & (truths == NONE)], 1)
    return matrix


__all__ = ["confusion_matrix"]
