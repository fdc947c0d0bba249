"""COCO's annotation form of what was found, which annotation tools take as labels to begin from."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .detections import short_floats
from .detector import DetectionFailure, Result


def coco_file(found: Mapping[str, Result]) -> dict[str, list[dict[str, Any]]]:
    """What a COCO file of these images holds: `images`, `annotations` and `categories`.

    All ids count from 1, since Datumaro reads a category 0 as no class. Boxes are x, y, width, height in pixels of
    the original image. Each annotation keeps its `score`.

    Args:
        found: for the name of each image file, the `Detections` in it; an image with none is listed too.

    Raises:
        ValueError: an image could not be looked at, or two detections have other classes.

    Example:
        >>> from deformable_detr_refine import Detections
        >>> file = coco_file({"a.jpg": Detections([[8, 4, 40, 20]], [0.75], [1], {0: "can", 1: "carton"}, (32, 64))})
        >>> file["annotations"]
        [{'id': 1, 'image_id': 1, 'category_id': 2, 'bbox': [8.0, 4.0, 32.0, 16.0], 'score': 0.75, 'area': 512.0, \
'iscrowd': 0}]
        >>> file["images"], file["categories"]
        ([{'id': 1, 'file_name': 'a.jpg', 'width': 64, 'height': 32}], [{'id': 1, 'name': 'can'}, {'id': 2, 'name': \
'carton'}])
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    id2label: Mapping[int, str] | None = None
    for number, (name, detections) in enumerate(found.items(), start=1):
        if isinstance(detections, DetectionFailure):
            raise ValueError(f"{name} has no detections: {detections.error}")
        if id2label is None:
            id2label = detections.id2label
        if detections.id2label != id2label:
            raise ValueError(f"The detections in {name} have other classes than those before; one model finds all.")
        height, width = detections.image_size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for row in detections.to_coco(number, {label: i for i, label in enumerate(sorted(id2label), start=1)}):
            area = short_floats(np.prod(np.float32(row["bbox"][2:])))
            annotations.append({"id": len(annotations) + 1, **row, "area": area, "iscrowd": 0})
    names = [name for _, name in sorted((id2label or {}).items())]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


__all__ = ["coco_file"]
