"""Azure ML's metrics for object detection, by its names, as its evaluation component counts them.

The definitions are those of Microsoft's package azureml-metrics 0.0.91 (azureml/metrics/vision/od_is_eval), whose
numbers these were compared with; described in "Evaluate automated ML experiment results" (learn.microsoft.com,
how-to-understand-automated-ml). They differ from COCO's: one IoU threshold, the whole area under the curve, each
detection goes to the object it overlaps most, and what scores low is dropped first, so that precision and recall are
those of the detections a user would see.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.json_file import read_json

from ..evaluated_image import EvaluatedImage, corners_to_xywh

# The last but one is spelt so in Azure.
METRICS = (
    "mean_average_precision",
    "precision",
    "recall",
    "per_label_metrics",
    "image_level_binary_classsifier_metrics",
    "confusion_matrices_per_score_threshold",
)
SCORE_THRESHOLDS = tuple(i / 10 for i in range(10))
UNDEFINED = -1.0
WRONG, RIGHT, ON_CROWD = 0, 1, 2


@dataclass(frozen=True)
class AzureEvaluation:
    """The settings of Azure's evaluation config, with its defaults.

    Args:
        metrics: which of `METRICS` to give.
        iou_threshold: overlap from which on a detection finds an object; below 0.1 it counts as 0.1.
        box_score_threshold: detections above it count.

    Raises:
        ValueError: a metric is unknown, or a threshold is not in 0..1.

    Example:
        >>> AzureEvaluation(["precision"], box_score_threshold=0.5).metrics
        ('precision',)
    """

    metrics: Collection[str] = METRICS
    iou_threshold: float = 0.5
    box_score_threshold: float = THRESHOLD

    def __post_init__(self):
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"Azure has no metric {unknown[0]!r} for object detection; it has {', '.join(METRICS)}.")
        for name in ("iou_threshold", "box_score_threshold"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}, expected a number from 0 to 1.")
        object.__setattr__(self, "metrics", tuple(self.metrics))
        object.__setattr__(self, "iou_threshold", max(0.1, self.iou_threshold))

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "AzureEvaluation":
        """Reads the JSON file that Azure's evaluation component takes: `{"metrics": [...], "iou_threshold": 0.5,
        "box_score_threshold": 0.3}`, each of which may be left out.

        Raises:
            OSError, ValueError: it cannot be read, or holds something else.
        """
        settings = read_json(Path(path))
        known = [field.name for field in fields(cls)]
        if not isinstance(settings.get("metrics", []), list):
            raise ValueError(f"{path} is no evaluation config: expected an object with a list 'metrics'.")
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(f"{path}: unknown setting {unknown[0]!r}; there are {', '.join(known)}.")
        try:
            return cls(**settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def azure_metrics(
    images: Sequence[EvaluatedImage], names: Sequence[str], settings: AzureEvaluation | None = None
) -> dict[str, Any]:
    """Azure's metrics of a detector.

    Matching, in each image and class: by falling score, a detection goes to the object with which its IoU is largest.
    It is right when that reaches `iou_threshold` and no better detection took the object before, wrong otherwise;
    when the object is a crowd it counts neither way.

    Args:
        images: every image once.
        names: the name of every class label, in order.
        settings: Azure's defaults if None.

    Returns:
        What `settings.metrics` names of:
        - `per_label_metrics`: by name `average_precision` (the area under precision over recall, precision replaced by
          the best at any recall from there on, at all points: VOC 2010), `precision` and `recall` of all detections
          above `box_score_threshold`. -1 where undefined: precision without detections, the others without objects.
        - `mean_average_precision`, `precision`, `recall`: their means over the labels where they are defined; 0 if
          there are none.
        - `image_level_binary_classsifier_metrics`: the same three for 'is there something in this image': an image
          counts as right as soon as one of its detections is right, as wrong when all of them are wrong; recall is out
          of the images with objects.
        - `confusion_matrices_per_score_threshold`: for "0.0", "0.1", ... "0.9" a matrix of K rows (true label) and
          K + 1 columns (label found; last: not found), matched whatever the labels, of detections scored from there
          on. `box_score_threshold` comes first, so the matrices below it are equal.

    Example:
        >>> image = EvaluatedImage(7, "a.jpg", (32, 64), [[8, 4, 40, 20]], [0.75], [1], [[8, 4, 40, 20]], [0])
        >>> metrics = azure_metrics([image], ["can", "carton"])
        >>> metrics["recall"], metrics["confusion_matrices_per_score_threshold"]["0.5"]
        (0.0, [[0, 1, 0], [0, 0, 0]])
    """
    settings = settings or AzureEvaluation()
    images = [_above(image, settings.box_score_threshold) for image in sorted(images, key=lambda i: i.image_id)]
    verdicts = [_judge_by_label(image, settings.iou_threshold) for image in images]
    verdict = np.concatenate([*verdicts, np.zeros(0, dtype=np.int64)])
    score = np.concatenate([*(image.scores for image in images), np.zeros(0)])
    label = np.concatenate([*(image.labels for image in images), np.zeros(0, dtype=np.int64)])
    where = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
    true = [image.true_labels[~image.true_crowd] for image in images]
    objects = np.bincount(np.concatenate([*true, np.zeros(0, dtype=np.int64)]), minlength=len(names))

    per_label = {
        name: _curve_metrics(verdict[label == k], score[label == k], int(objects[k])) for k, name in enumerate(names)
    }
    rows = per_label.values()
    results = {
        "mean_average_precision": _mean([row["average_precision"] for row in rows]),
        "precision": _mean([row["precision"] for row in rows]),
        "recall": _mean([row["recall"] for row in rows]),
        "per_label_metrics": per_label,
        "image_level_binary_classsifier_metrics": _curve_metrics(
            verdict, score, sum(len(labels) > 0 for labels in true), where
        ),
        "confusion_matrices_per_score_threshold": _confusion(images, objects, settings.iou_threshold),
    }
    return {name: results[name] for name in METRICS if name in settings.metrics}


def _above(image: EvaluatedImage, threshold: float) -> EvaluatedImage:
    kept = image.scores > np.float32(threshold)
    return EvaluatedImage(
        image.image_id,
        image.file_name,
        image.size,
        image.boxes[kept],
        image.scores[kept],
        image.labels[kept],
        image.true_boxes,
        image.true_labels,
        image.true_crowd,
        image.true_area,
    )


def _judge_by_label(image: EvaluatedImage, iou_threshold: float) -> np.ndarray:
    verdict = np.zeros(len(image.labels), dtype=np.int64)
    for label in np.unique(image.labels):
        chosen, true = image.labels == label, image.true_labels == label
        verdict[chosen], _ = _judge(image, chosen, true, iou_threshold)
    return verdict


def _judge(
    image: EvaluatedImage, chosen: np.ndarray, true: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The verdict on each chosen detection, and the number of the object it found among the chosen ones, or -1."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError('Azure metrics need pycocotools: pip install "deformable-detr-refine[train]".') from error
    scores, crowd = image.scores[chosen], image.true_crowd[true]
    verdict, which = np.full(len(scores), WRONG), np.full(len(scores), -1)
    if not (len(scores) and len(crowd)):
        return verdict, which
    boxes, true_boxes = corners_to_xywh(image.boxes[chosen]), corners_to_xywh(image.true_boxes[true])
    # (N, M); with a crowd, the share on it
    iou = np.asarray(mask.iou(boxes, true_boxes, crowd.astype(np.uint8).tolist()))
    nearest = iou.argmax(axis=1)
    taken = np.zeros(len(crowd), dtype=bool)
    # Of equal scores the last first, as Azure's reversed sort has it.
    for i in np.argsort(scores, kind="stable")[::-1]:
        k = nearest[i]
        if iou[i, k] < iou_threshold:
            continue
        if crowd[k]:
            verdict[i] = ON_CROWD
        elif not taken[k]:
            verdict[i], which[i], taken[k] = RIGHT, k, True
    return verdict, which


def _curve_metrics(
    verdict: np.ndarray, score: np.ndarray, objects: int, image: np.ndarray | None = None
) -> dict[str, float]:
    """Area under the curve, and precision and recall at its end; by image if the detections' images are given."""
    if not objects:
        precision = 0.0 if len(verdict) else UNDEFINED
        return {"average_precision": UNDEFINED, "precision": precision, "recall": UNDEFINED}
    if not len(verdict):
        return {"average_precision": 0.0, "precision": UNDEFINED, "recall": 0.0}
    order = np.argsort(score, kind="stable")[::-1]
    right, wrong = verdict[order] == RIGHT, verdict[order] == WRONG
    if image is not None:
        right, wrong = _by_image(right, wrong, image[order])
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    counted = right + wrong
    precision = np.divide(right, counted, out=np.zeros(len(right)), where=counted > 0)
    recall = right / objects
    best = np.maximum.accumulate(precision[::-1])[::-1]
    area = float((best * np.diff(recall, prepend=0.0)).sum())
    return {"average_precision": area, "precision": float(precision[-1]), "recall": float(recall[-1])}


def _by_image(right: np.ndarray, wrong: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the numbers of right and of wrong images change with each detection, best first."""
    step_right, step_wrong = np.zeros(len(image), dtype=np.int64), np.zeros(len(image), dtype=np.int64)
    state: dict[int, int] = {}
    for i, number in enumerate(image.tolist()):
        if right[i] and state.get(number) != RIGHT:
            step_right[i], step_wrong[i] = 1, -(number in state)
            state[number] = RIGHT
        elif wrong[i] and number not in state:
            step_wrong[i] = 1
            state[number] = WRONG
    return step_right, step_wrong


def _confusion(images: Sequence[EvaluatedImage], objects: np.ndarray, iou_threshold: float) -> dict[str, list]:
    pairs = [np.zeros((0, 3))]
    for image in images:
        everything = np.ones(len(image.labels), dtype=bool), np.ones(len(image.true_labels), dtype=bool)
        _, which = _judge(image, *everything, iou_threshold)
        paired = which >= 0
        pairs.append(np.stack([image.true_labels[which[paired]], image.labels[paired], image.scores[paired]], axis=1))
    true, label, score = np.concatenate(pairs).T
    matrices = {}
    for threshold in SCORE_THRESHOLDS:
        kept = score >= threshold
        matrix = np.zeros((len(objects), len(objects) + 1), dtype=np.int64)
        np.add.at(matrix, (true[kept].astype(np.int64), label[kept].astype(np.int64)), 1)
        matrix[:, -1] = objects - matrix.sum(axis=1)
        matrices[str(threshold)] = matrix.tolist()
    return matrices


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if value != UNDEFINED]
    return sum(defined) / len(defined) if defined else 0.0


__all__ = ["METRICS", "AzureEvaluation", "azure_metrics"]
