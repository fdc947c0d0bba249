"""COCO's metrics: pycocotools' own COCOeval, run class by class, so that memory and time follow what is there.

One run over all classes holds a dict for every detection (650 bytes each, 330 MB for COCO's validation images) and an
entry for every pair of image and class. A class at a time, with only the images where it was found or is true, gives
the same precision and recall arrays, bit for bit.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

from ..evaluated_image import EvaluatedImage, corners_to_xywh

# Indices into the axes of COCOeval's precision (T, R, K, A, M) and recall (T, K, A, M):
# T IoU 0.50, 0.55 ... 0.95, R recall 0.00, 0.01 ... 1.00, K classes, A areas, M most detections an image.
AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}
MOST = {1: 0, 10: 1, 100: 2}
IOU_50, IOU_75 = 0, 5
SHAPE = (10, 101, 4, 3)  # T, R, A, M
# The twelve numbers, and what each says.
COCO_METRICS = {
    "AP": "AP (IoU 0.50:0.95)",
    "AP50": "AP (IoU 0.50)",
    "AP75": "AP (IoU 0.75)",
    "APs": "AP, small objects",
    "APm": "AP, medium objects",
    "APl": "AP, large objects",
    "AR1": "AR, 1 detection an image",
    "AR10": "AR, 10 detections",
    "AR100": "AR, 100 detections",
    "ARs": "AR, small objects",
    "ARm": "AR, medium objects",
    "ARl": "AR, large objects",
}


def coco_metrics(images: Sequence[EvaluatedImage], names: Sequence[str], library: str | None = None) -> dict[str, Any]:
    """COCO's twelve numbers, and four of them for each class.

    Args:
        images: every image once; the order does not matter (COCOeval's, by image id, is taken).
        names: the name of every class label, in order.
        library: "pycocotools" or "faster_coco_eval" (the same numbers in a third of the time); the latter if it is
            installed, when None.

    Returns:
        `AP` (mean over IoU 0.50:0.05:0.95), `AP50`, `AP75`, `APs`, `APm`, `APl` (areas below 32^2, to 96^2, above),
        `AR1`, `AR10`, `AR100` (most detections an image and class), `ARs`, `ARm`, `ARl`, all 0..1, and -1 where there
        is nothing to judge; `per_class`: by name `AP`, `AP50`, `AP75`, `AR100` and `objects`, how many true ones there
        are (crowds not counted).

    Raises:
        ImportError: neither library is installed.
        ValueError: an image id occurs twice, a label has no name, a name occurs twice.

    Example:
        >>> image = EvaluatedImage(7, "a.jpg", (32, 64), [[8, 4, 40, 20]], [0.75], [0], [[8, 4, 40, 20]], [0])
        >>> metrics = coco_metrics([image], ["can", "carton"])
        >>> round(metrics["AP"], 6), metrics["APl"], metrics["per_class"]["carton"]["objects"]
        (1.0, -1.0, 0)
    """
    evaluate = _evaluator(library)
    images = sorted(images, key=lambda image: image.image_id)
    _check(images, names)
    detections, true = _Table.of_detections(images), _Table.of_truth(images)
    T, R, A, M = SHAPE
    precision, recall = np.full((T, R, len(names), A, M), -1.0), np.full((T, len(names), A, M), -1.0)
    objects = []
    for label in range(len(names)):
        truth = true.annotations(label)
        objects.append(sum(1 for annotation in truth if not annotation["iscrowd"]))
        # Without an object to find COCOeval leaves -1, whatever was detected.
        if objects[-1]:
            precision[:, :, label], recall[:, label] = evaluate(truth, detections.annotations(label))
    return {
        **_twelve(precision, recall),
        "per_class": {
            name: {
                "AP": _mean(precision[:, :, k, AREAS["all"], MOST[100]]),
                "AP50": _mean(precision[IOU_50, :, k, AREAS["all"], MOST[100]]),
                "AP75": _mean(precision[IOU_75, :, k, AREAS["all"], MOST[100]]),
                "AR100": _mean(recall[:, k, AREAS["all"], MOST[100]]),
                "objects": objects[k],
            }
            for k, name in enumerate(names)
        },
    }


def _twelve(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The means that COCOeval.summarize takes."""

    def ap(iou: slice | int = slice(None), area: str = "all") -> float:
        return _mean(precision[iou, :, :, AREAS[area], MOST[100]])

    def ar(most: int = 100, area: str = "all") -> float:
        return _mean(recall[:, :, AREAS[area], MOST[most]])

    return {
        "AP": ap(),
        "AP50": ap(IOU_50),
        "AP75": ap(IOU_75),
        "APs": ap(area="small"),
        "APm": ap(area="medium"),
        "APl": ap(area="large"),
        "AR1": ar(1),
        "AR10": ar(10),
        "AR100": ar(),
        "ARs": ar(area="small"),
        "ARm": ar(area="medium"),
        "ARl": ar(area="large"),
    }


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def _check(images: Sequence[EvaluatedImage], names: Sequence[str]) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"The class name {twice[0]!r} occurs twice among {len(names)}.")
    for before, image in pairwise(images):
        if before.image_id == image.image_id:
            raise ValueError(
                f"Image id {image.image_id} occurs twice ({before.file_name}, {image.file_name}): each image is judged "
                "once; merge the results of several processes with merge_images."
            )
    for image in images:
        for what, labels in (("detections", image.labels), ("true objects", image.true_labels)):
            unknown = (labels < 0) | (labels >= len(names))
            if unknown.any():
                raise ValueError(
                    f"Image {image.image_id} ({image.file_name}): {what} have label {labels[unknown][0]}, "
                    f"but there are {len(names)} classes, 0 to {len(names) - 1}."
                )


class _Table:
    """Boxes of all images in one array per column, grouped by label, in which the images' order is kept."""

    def __init__(self, labels: list[np.ndarray], **columns: list[np.ndarray]):
        self.image = np.repeat(np.arange(len(labels)), [len(part) for part in labels])
        label = np.concatenate([*labels, np.zeros(0, dtype=np.int64)])
        order = np.argsort(label, kind="stable")
        self.label, self.image = label[order], self.image[order]
        self.columns = {name: np.concatenate(parts)[order] for name, parts in columns.items() if parts}

    @classmethod
    def of_detections(cls, images: Sequence[EvaluatedImage]) -> "_Table":
        boxes = [corners_to_xywh(image.boxes) for image in images]
        areas = [box[:, 2] * box[:, 3] for box in boxes]
        scores = [image.scores.astype(np.float64) for image in images]
        return cls([image.labels for image in images], bbox=boxes, area=areas, score=scores)

    @classmethod
    def of_truth(cls, images: Sequence[EvaluatedImage]) -> "_Table":
        crowds = [image.true_crowd.astype(np.int64) for image in images]
        boxes = [corners_to_xywh(image.true_boxes) for image in images]
        labels, areas = [image.true_labels for image in images], [image.true_area for image in images]
        return cls(labels, bbox=boxes, area=areas, iscrowd=crowds)

    def annotations(self, label: int) -> list[dict[str, Any]]:
        """COCO's dicts of one class; images are numbered by position, ids from 1 (0 means 'unmatched' to COCOeval)."""
        part = slice(*np.searchsorted(self.label, [label, label + 1]))
        keys = ("id", "image_id", "category_id", "iscrowd", *self.columns)
        rows = zip(self.image[part].tolist(), *(column[part].tolist() for column in self.columns.values()), strict=True)
        return [dict(zip(keys, (i, image, 1, 0, *rest), strict=True)) for i, (image, *rest) in enumerate(rows, 1)]


def _evaluator(library: str | None) -> Callable[[list[dict], list[dict]], tuple[np.ndarray, np.ndarray]]:
    """A function from the annotations of one class to its precision (T, R, A, M) and recall (T, A, M)."""
    runners = {"faster_coco_eval": _with_faster_coco_eval, "pycocotools": _with_pycocotools}
    for name in runners if library is None else (library,):
        if find_spec(name):
            return runners[name]
    raise ImportError('COCO metrics need pycocotools: pip install "deformable-detr-refine[train]".')


def _with_pycocotools(truth: list[dict], detections: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # It prints on every step, and has no switch for that.
    with contextlib.redirect_stdout(io.StringIO()):
        return _run(COCOeval(*_indexed(COCO, truth, detections), "bbox"))


def _with_faster_coco_eval(truth: list[dict], detections: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    from faster_coco_eval import COCO, COCOeval_faster

    return _run(COCOeval_faster(*_indexed(COCO, truth, detections), "bbox", print_function=lambda *_: None))


def _indexed(kind: type, truth: list[dict], detections: list[dict]) -> tuple[Any, Any]:
    """Both sides as COCO objects, filled directly: loadRes would copy, add outlines, and fail on an empty list."""
    images = [{"id": i} for i in sorted({item["image_id"] for item in (*truth, *detections)})]
    sides = kind(), kind()
    for side, annotations in zip(sides, (truth, detections), strict=True):
        side.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
        side.createIndex()
    return sides


def _run(evaluation: Any) -> tuple[np.ndarray, np.ndarray]:
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


__all__ = ["coco_metrics"]
