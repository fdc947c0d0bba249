"""One image after detection: what was found beside what is true. Everything in this package is computed from these."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deformable_detr_refine.inference.detections import to_numpy


@dataclass(frozen=True, eq=False, init=False)
class EvaluatedImage:
    """The N detections and M true objects of one image; about 5 KB with 100 detections, without any pixel.

    Boxes are xyxy in pixels of the original, upright image. Arrays, lists and torch tensors are taken; what is kept
    are numpy copies.

    Args:
        image_id: the data set's own id, any whole number; where it has others, a number of the image.
        file_name: as the data set names it.
        size: (height, width) of the original image.
        boxes: (N, 4) float32, found.
        scores: (N,) float32.
        labels: (N,) int64, class labels of the model.
        true_boxes: (M, 4) float64.
        true_labels: (M,) int64.
        true_crowd: (M,) bool; COCO's crowds: detections on them count neither as right nor as wrong.
        true_area: (M,) float64, by which COCO sorts objects into small, medium and large; the area of the box if None.

        source_id: the data set's own id where that is a text; results are written with it.

    Raises:
        ValueError: shapes do not fit, or a number is not finite; the message names the image.

    Example:
        >>> image = EvaluatedImage(7, "a.jpg", (32, 64), [[8, 4, 40, 20]], [0.75], [1], [[8, 4, 40, 24]], [1])
        >>> len(image.scores), image.true_area.tolist(), image.true_crowd.tolist()
        (1, [640.0], [False])
    """

    image_id: int
    file_name: str
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    true_boxes: np.ndarray
    true_labels: np.ndarray
    true_crowd: np.ndarray
    true_area: np.ndarray
    source_id: str | None

    def __init__(
        self,
        image_id: int,
        file_name: str,
        size: tuple[int, int],
        boxes: ArrayLike,
        scores: ArrayLike,
        labels: ArrayLike,
        true_boxes: ArrayLike,
        true_labels: ArrayLike,
        true_crowd: ArrayLike | None = None,
        true_area: ArrayLike | None = None,
        source_id: str | None = None,
    ):
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        keep("image_id", int(image_id))
        keep("file_name", file_name)
        keep("size", (int(size[0]), int(size[1])))
        keep("source_id", source_id)
        given = (boxes, scores, labels, true_boxes, true_labels, true_crowd, true_area)
        for (name, kind, columns), value in zip(_FIELDS, given, strict=True):
            array = to_numpy(self._default(name) if value is None else value)
            if array.size == 0:
                array = array.reshape(0, *columns)
            keep(name, array.astype(kind))
        self._check()

    @property
    def own_id(self) -> int | str:
        """The id that the data set itself gives to the image."""
        return self.image_id if self.source_id is None else self.source_id

    def _default(self, name: str) -> np.ndarray:
        if name == "true_crowd":
            return np.zeros(len(self.true_labels), dtype=bool)
        x0, y0, x1, y1 = self.true_boxes.T
        return (x1 - x0) * (y1 - y0)

    def _check(self) -> None:
        where = f"Image {self.image_id} ({self.file_name})"
        for names, count in ((_FIELDS[:3], len(self.scores)), (_FIELDS[3:], len(self.true_labels))):
            for name, _, columns in names:
                value = getattr(self, name)
                if value.shape != (count, *columns):
                    raise ValueError(f"{where}: {name} has shape {value.shape}, expected {(count, *columns)}.")
                if not np.isfinite(value).all():
                    index = int(np.argwhere(~np.isfinite(value))[0][0])
                    raise ValueError(f"{where}: {name} number {index} is {value[index].tolist()}, not finite.")


_FIELDS = (
    ("boxes", np.float32, (4,)),
    ("scores", np.float32, ()),
    ("labels", np.int64, ()),
    # float64, so that x, y, w, h of float32 come back exactly from the corners.
    ("true_boxes", np.float64, (4,)),
    ("true_labels", np.int64, ()),
    ("true_crowd", np.bool_, ()),
    ("true_area", np.float64, ()),
)


def evaluated_image(result: Mapping[str, Any], row: Mapping[str, Any]) -> EvaluatedImage:
    """Puts what `post_process_object_detection` gave for one image beside the truth of its data row.

    Args:
        result: `boxes` (N, 4) xyxy in pixels of the original image (so with `target_sizes` given), `scores` (N,),
            `labels` (N,); for evaluation with threshold 0 and the best 100.
        row: a row of a data set of this package: `image_id`, `file_name`, `width`, `height` and `objects` with lists
            `bbox` [x, y, w, h] in pixels of the original, `category`, and if present `area` and `iscrowd`.
            The image itself is not needed.

    Example:
        >>> import torch
        >>> result = {"boxes": torch.ones(1, 4), "scores": torch.ones(1), "labels": torch.tensor([0])}
        >>> objects = {"bbox": [[8, 4, 32, 20]], "category": [0], "area": [500.0], "iscrowd": [0]}
        >>> row = {"image_id": 7, "file_name": "a.jpg", "width": 64, "height": 32, "objects": objects}
        >>> evaluated_image(result, row).true_boxes.tolist()
        [[8.0, 4.0, 40.0, 24.0]]
    """
    objects = row["objects"]
    boxes = np.asarray(objects["bbox"], dtype=np.float64).reshape(-1, 4)
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return EvaluatedImage(
        image_id=row["image_id"],
        file_name=row["file_name"],
        size=(row["height"], row["width"]),
        boxes=result["boxes"],
        scores=result["scores"],
        labels=result["labels"],
        true_boxes=boxes,
        true_labels=objects["category"],
        true_crowd=objects.get("iscrowd"),
        true_area=objects.get("area"),
        source_id=row.get("source_id"),
    )


def corners_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) x0, y0, x1, y1 -> (N, 4) x, y, width, height, in float64, where the difference of float32 is exact.

    Example:
        >>> corners_to_xywh(np.array([[8, 4, 40, 20]], dtype=np.float32)).tolist()
        [[8.0, 4.0, 32.0, 16.0]]
    """
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


__all__ = ["EvaluatedImage", "corners_to_xywh", "evaluated_image"]
