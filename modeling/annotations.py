"""COCO's annotations of an image, checked, as the labels that a detector trains on."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .boxes import xywh_to_xyxy, xyxy_to_cxcywh

FORM = "{'image_id': 7, 'annotations': [{'bbox': [x, y, width, height], 'category_id': 0}, ...]}"


def coco_labels(annotation: Mapping[str, Any], image: Tensor, index: int) -> dict[str, Tensor]:
    """COCO's form and the original image (3, height, width) -> labels, as `preprocess` of the processor describes them.

    Args:
        index: of the image in the batch, for the errors.

    Raises:
        ValueError: the annotation is not of this form, a box is not four finite numbers, or an id is no whole number.
    """
    where = f"annotations[{index}]"
    if not isinstance(annotation, Mapping) or not _is_list(annotation.get("annotations")):
        raise ValueError(f"{where} is not of the form {FORM}; it is {annotation!r:.200}.")
    labels = {}
    if annotation.get("image_id") is not None:
        # A tensor, as all labels: a Trainer gathers them.
        labels["image_id"] = torch.tensor([_whole_number(annotation["image_id"], f"{where}['image_id']")])
        where += f" (image_id {labels['image_id'].item()})"
    objects = [
        _box_and_class(item, f"{where}, object {number}")
        for number, item in enumerate(annotation["annotations"])
        if not _is_crowd(item, f"{where}, object {number}")
    ]
    height, width = image.shape[-2:]
    xywh = torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([label for _, label in objects], dtype=torch.int64)
    return labels | box_labels(xywh_to_xyxy(xywh), classes, height, width)


def box_labels(boxes: Tensor, classes: Tensor, height: int, width: int) -> dict[str, Tensor]:
    """The labels of an image, without boxes that have no area in it.

    Args:
        boxes: (N, 4) float32 xyxy in pixels of the image.
        classes: (N,) int64.
        height, width: of the image, in pixels.
    """
    limits = torch.tensor([width, height] * 2, dtype=torch.float32)
    boxes = boxes.clamp(min=0).minimum(limits)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    boxes = xyxy_to_cxcywh(boxes[kept])
    return {
        "class_labels": classes[kept],
        "boxes": boxes / limits,
        "area": boxes[:, 2:].prod(-1),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
        "orig_size": torch.tensor([height, width]),
    }


def _is_crowd(item: Any, where: str) -> bool:
    value = item.get("iscrowd") if isinstance(item, Mapping) else None
    try:
        number = getattr(value, "item", lambda: value)()
        if number in (None, 0, 1):
            return bool(number)
    except (ValueError, RuntimeError):
        pass  # several numbers
    raise ValueError(f"{where}: iscrowd is 0 or 1, not {value!r:.200}.")


def _box_and_class(item: Any, where: str) -> tuple[list[float], int]:
    if not isinstance(item, Mapping) or "bbox" not in item or "category_id" not in item:
        raise ValueError(f"{where} has no 'bbox' or no 'category_id': it is {item!r:.200}; the form is {FORM}.")
    box = item["bbox"]
    try:
        sides = [float(side) for side in box]
    except (TypeError, ValueError):
        sides = []
    if len(sides) != 4 or not all(map(math.isfinite, sides)):
        raise ValueError(f"{where}: bbox is [x, y, width, height] in pixels, four finite numbers, not {box!r:.200}.")
    label = _whole_number(item["category_id"], f"{where}: category_id")
    if label < 0:
        raise ValueError(f"{where}: category_id {label} is negative; it is the model's class label, from 0 on.")
    return sides, label


def _whole_number(value: Any, what: str) -> int:
    """Of Python, numpy or torch."""
    try:
        number = getattr(value, "item", lambda: value)()
        if not isinstance(number, bool | str) and int(number) == number:
            return int(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass  # several numbers, no number, NaN or infinity
    raise ValueError(f"{what} must be a whole number, not {value!r:.200}.")


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


__all__ = ["box_labels", "coco_labels"]
