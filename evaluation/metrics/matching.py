"""Which detection found which true object: COCO's own matching, kept per box so that everything else can count on it.

COCOeval gives curves and means but not the pairs; the report's curves, error kinds and pictures all need them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluated_image import EvaluatedImage, corners_to_xywh

NONE, ON_CROWD = -1, -2
# COCOeval's, which lets boxes that are equal but for rounding match at IoU 1.
MOST_IOU = 1 - 1e-10
MOST = 100


@dataclass(frozen=True, eq=False)
class Matches:
    """The D detections of all images, best score first, beside the G true objects, crowds left out.

    Images are numbered by rising image id, so the order in which they were given does not matter.

    Args:
        scores: (D,) falling.
        labels: (D,) class labels.
        images: (D,) number of the image.
        truths: (T, D) for each IoU asked for, number of the true object found, or NONE, or ON_CROWD (COCO counts such
            a detection neither as right nor as wrong).
        own_iou, own_truth: (D,) best IoU with any true object of the detection's class, and which (NONE: no such).
        other_iou, other_truth: (D,) the same among the objects of other classes.
        true_labels: (G,)
        true_images: (G,)
    """

    scores: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    truths: np.ndarray
    own_iou: np.ndarray
    own_truth: np.ndarray
    other_iou: np.ndarray
    other_truth: np.ndarray
    true_labels: np.ndarray
    true_images: np.ndarray


def match(images: Sequence[EvaluatedImage], ious: Sequence[float] = (0.5,)) -> Matches:
    """Matches as COCOeval does, each class by itself, all object sizes, 100 detections.

    By falling score, each detection takes the free object of its class with the highest IoU, if that reaches the
    threshold; else a crowd of its class, if it lies on one.

    Example:
        >>> box = [8, 4, 40, 20]
        >>> image = EvaluatedImage(7, "a.jpg", (32, 64), [box, box], [0.75, 0.5], [0, 0], [box], [0])
        >>> match([image]).truths.tolist()
        [[0, -1]]
    """
    columns: dict[str, list[np.ndarray]] = {name: [] for name in Matches.__dataclass_fields__}
    first = 0
    for number, image in enumerate(sorted(images, key=lambda image: image.image_id)):
        order = judged(image)
        iou, on_crowd = _ious(image, order)
        true_labels = image.true_labels[~image.true_crowd]
        labels = image.labels[order]
        same = labels[:, None] == true_labels
        own, other = np.where(same, iou, -1), np.where(same, -1, iou)
        truths = np.stack([_shifted(assign(own, threshold), first) for threshold in ious])
        truths[(truths == NONE) & (on_crowd >= np.array(ious)[:, None])] = ON_CROWD
        columns["scores"].append(image.scores[order])
        columns["labels"].append(labels)
        columns["images"].append(np.full(len(order), number))
        columns["truths"].append(truths)
        for name, values in (("own", own), ("other", other)):
            best, which = _best(values)
            columns[f"{name}_iou"].append(best)
            columns[f"{name}_truth"].append(_shifted(which, first))
        columns["true_labels"].append(true_labels)
        columns["true_images"].append(np.full(len(true_labels), number))
        first += len(true_labels)
    if not images:
        empty = dict.fromkeys(columns, np.zeros(0, dtype=np.int64))
        return Matches(**empty | {"truths": np.zeros((len(ious), 0), dtype=np.int64)})
    arrays = {name: np.concatenate(parts, axis=-1) for name, parts in columns.items()}
    by_score = np.argsort(-arrays["scores"], kind="stable")
    return Matches(
        **{name: array if name.startswith("true_") else array[..., by_score] for name, array in arrays.items()}
    )


def judged(image: EvaluatedImage) -> np.ndarray:
    """The detections that COCO judges, best score first: at most 100 of each class."""
    order = np.argsort(-image.scores, kind="stable")
    if len(order) <= MOST:
        return order
    labels = image.labels[order]
    return order[np.sort(np.concatenate([np.flatnonzero(labels == label)[:MOST] for label in np.unique(labels)]))]


def assign(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Each of N detections, best first, takes the free object of M with the highest IoU from the threshold on.

    Args:
        iou: (N, M), below 0 where the two may not meet.

    Returns:
        (N,) the object's number, or NONE.
    """
    threshold = min(threshold, MOST_IOU)
    taken = np.full(len(iou), NONE)
    free = iou.copy()
    for detection in np.flatnonzero((iou >= threshold).any(axis=1)):
        row = free[detection]
        # The last of equals, as COCOeval.
        best = row.size - 1 - int(row[::-1].argmax())
        if row[best] >= threshold:
            taken[detection] = best
            free[:, best] = -1
    return taken


def _ious(image: EvaluatedImage, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU of the detections with the true objects (N, M), and each one's largest share on a crowd of its class (N,)."""
    crowd = image.true_crowd
    if not (len(order) and len(crowd)):
        return np.zeros((len(order), np.count_nonzero(~crowd))), np.full(len(order), -1.0)
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError('Matching needs pycocotools: pip install "deformable-detr-refine[train]".') from error
    boxes, true_boxes = corners_to_xywh(image.boxes[order]), corners_to_xywh(image.true_boxes)
    iou = np.asarray(mask.iou(boxes, true_boxes, crowd.astype(np.uint8).tolist()))
    on_crowd = np.where(image.labels[order, None] == image.true_labels[crowd], iou[:, crowd], -1.0)
    return iou[:, ~crowd], on_crowd.max(axis=1, initial=-1.0)


def _best(iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's highest IoU and where it is; 0 and NONE where no pair may meet."""
    best = iou.max(axis=1, initial=-1.0)
    which = iou.argmax(axis=1) if iou.shape[1] else np.zeros(len(iou), dtype=np.int64)
    return best.clip(0), np.where(best < 0, NONE, which)


def _shifted(numbers: np.ndarray, by: int) -> np.ndarray:
    return np.where(numbers < 0, numbers, numbers + by)


__all__ = ["NONE", "ON_CROWD", "Matches", "assign", "judged", "match"]
