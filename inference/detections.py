"""One type for the boxes found in an image; every other form converts from it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from deformable_detr_refine.messages import counted
from deformable_detr_refine.modeling.image_io import load_image

from .drawing import draw_boxes

# A box is shown or counted above this score where nobody chose a threshold: MMDetection's own demo draws, and Azure's
# metrics count from here on. COCO's metrics, and whatever a program reads, have none.
THRESHOLD = 0.3


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The N boxes found in one image, in the order given (post-processing gives them by falling score).

    Boxes are xyxy in pixels of the original, upright image: not of the resized one, not of the padded batch, and not
    normalised. Arrays, lists and torch tensors are taken; what is kept are read-only numpy copies.

    Args:
        boxes: (N, 4) float32, x0, y0, x1, y1 with x0 <= x1 and y0 <= y1.
        scores: (N,) float32, 0..1.
        labels: (N,) int64, keys of `id2label`.
        id2label: the name of every label.
        image_size: (height, width) of the original image.
        ids: (N,) int64, the number of the object that was followed through a video, -1 for none.

    Raises:
        ValueError: shapes, ranges or label ids do not fit; the message names the first box at fault.

    Example:
        >>> names = {0: "can", 1: "carton"}
        >>> detections = Detections([[8, 4, 40, 20], [0, 0, 16, 16]], [0.75, 0.5], [1, 0], names, (32, 64))
        >>> detections
        Detections(2 boxes in a 64x32 image: carton 0.75, can 0.50)
        >>> detections.names
        ['carton', 'can']
        >>> detections[detections.scores > 0.6].boxes.tolist()
        [[8.0, 4.0, 40.0, 20.0]]
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    id2label: Mapping[int, str]
    image_size: tuple[int, int]
    ids: np.ndarray | None = None

    def __post_init__(self):
        boxes, scores, labels = (to_numpy(value) for value in (self.boxes, self.scores, self.labels))
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes have shape {boxes.shape}, expected (N, 4).")
        count = len(boxes)
        ids = np.full(count, -1) if self.ids is None else to_numpy(self.ids)
        for name, value in (("scores", scores), ("labels", labels), ("ids", ids)):
            if value.shape != (count,):
                raise ValueError(f"{name} have shape {value.shape}, expected ({count},) for {count} boxes.")
        if count and not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels have type {labels.dtype}, expected integers.")
        boxes, scores, labels = boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64)
        id2label = {int(key): str(name) for key, name in dict(self.id2label).items()}
        size = tuple(int(side) for side in np.asarray(to_numpy(self.image_size)).tolist())
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"image_size is {size}, expected (height, width) of at least one pixel.")

        _refuse_first(~np.all(np.isfinite(boxes), axis=1), "its corners are not finite", boxes)
        _refuse_first(np.any(boxes[:, 2:] < boxes[:, :2], axis=1), "expected x0 <= x1 and y0 <= y1", boxes)
        _refuse_first(~((scores >= 0) & (scores <= 1)), "expected 0..1", scores, "score")
        unknown = ~np.isin(labels, list(id2label))
        _refuse_first(unknown, f"id2label names {len(id2label)} other labels only", labels, "label")
        for name, value in (("boxes", boxes), ("scores", scores), ("labels", labels)):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if self.ids is not None:
            ids = ids.astype(np.int64)
            ids.setflags(write=False)
            object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "id2label", id2label)
        object.__setattr__(self, "image_size", size)

    @classmethod
    def from_post_process(
        cls, result: Mapping[str, Any], id2label: Mapping[int, str], image_size: tuple[int, int]
    ) -> "Detections":
        """Takes one dict of `post_process_object_detection`.

        Args:
            result: `scores` (N,), `labels` (N,) and `boxes` (N, 4) xyxy in pixels of the original image.
            id2label: usually `model.config.id2label`.
            image_size: (height, width), the very `target_sizes` entry that the post-processing was given.

        Example:
            >>> import torch
            >>> result = {"scores": torch.tensor([0.5]), "labels": torch.tensor([0]), "boxes": torch.ones(1, 4)}
            >>> Detections.from_post_process(result, {0: "can"}, (32, 64))
            Detections(1 box in a 64x32 image: can 0.50)
        """
        return cls(result["boxes"], result["scores"], result["labels"], id2label, image_size)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> "Detections":
        """A subset, by a number, a slice, a boolean mask (N,) or a list of numbers."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"There is no detection {index}, only {len(self)}.")
            index = [index]
        index = index if isinstance(index, slice) else to_numpy(index)
        if not isinstance(index, slice) and index.size == 0:
            index = index.astype(np.int64)
        ids = None if self.ids is None else self.ids[index]
        return Detections(
            self.boxes[index], self.scores[index], self.labels[index], self.id2label, self.image_size, ids
        )

    def __iter__(self) -> Iterator["Detections"]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        arrays = ("boxes", "scores", "labels", "ids")
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays)
        return same and self.id2label == other.id2label and self.image_size == other.image_size

    def __repr__(self) -> str:
        height, width = self.image_size
        listed = [f"{name} {score:.2f}" for name, score in zip(self.names[:5], self.scores[:5], strict=True)]
        listed += [f"{len(self) - 5} more"] * (len(self) > 5)
        head = f"{counted(len(self), 'box', 'boxes')} in a {width}x{height} image"
        return f"Detections({': '.join([head] + [', '.join(listed)] * bool(listed))})"

    @property
    def names(self) -> list[str]:
        """The label of each box as a name."""
        return [self.id2label[label] for label in self.labels.tolist()]

    def filter(self, threshold: float) -> "Detections":
        """The boxes with a score above `threshold` (as post-processing counts it).

        Example:
            >>> len(Detections([[0, 0, 1, 1]] * 2, [0.75, 0.25], [0, 0], {0: "can"}, (32, 64)).filter(0.5))
            1
        """
        return self[self.scores > threshold]

    def to_coco(self, image_id: int | str, category_ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
        """COCO's result form, one dict per box; `bbox` is x, y, width, height in pixels of the original image.

        Args:
            image_id: the image's id in the annotation file.
            category_ids: from label to the file's category id (COCO's 80 classes have ids up to 90). Without it the
                label itself is written.

        Raises:
            ValueError: `category_ids` misses a label.

        Example:
            >>> Detections([[8, 4, 40, 20]], [0.75], [1], {1: "carton"}, (32, 64)).to_coco(7, {1: 3})
            [{'image_id': 7, 'category_id': 3, 'bbox': [8.0, 4.0, 32.0, 16.0], 'score': 0.75}]
        """
        if category_ids is not None and (missing := sorted(set(self.labels.tolist()) - set(category_ids))):
            raise ValueError(f"category_ids has no entry for label {missing[0]} ({self.id2label[missing[0]]}).")
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": label if category_ids is None else category_ids[label],
                "bbox": short_floats(bbox),
                "score": short_floats(score),
            }
            for bbox, score, label in zip(corners, self.scores, self.labels.tolist(), strict=True)
        ]

    def to_azure(self) -> dict[str, list[dict[str, Any]]]:
        """Azure ML's response for one image; corners normalised by the original image and clipped to 0..1.

        Example:
            >>> Detections([[8, 4, 40, 20]], [0.75], [1], {1: "carton"}, (32, 64)).to_azure()["boxes"][0]["box"]
            {'topX': 0.125, 'topY': 0.125, 'bottomX': 0.625, 'bottomY': 0.625}
        """
        height, width = self.image_size
        corners = (self.boxes / np.array([width, height, width, height], dtype=np.float32)).clip(0, 1)
        keys = ("topX", "topY", "bottomX", "bottomY")
        return {
            "boxes": [
                {"box": dict(zip(keys, short_floats(box), strict=True)), "label": name, "score": short_floats(score)}
                for box, name, score in zip(corners, self.names, self.scores, strict=True)
            ]
        }

    def to_supervision(self) -> Any:
        """A `supervision.Detections` with `class_name` in its data.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs the package supervision: pip install supervision.") from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            tracker_id=None if self.ids is None else self.ids.copy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def draw(self, image: Any) -> Image.Image:
        """Draws the boxes with name, score and number, if they have one, into a copy of the image (see `draw_boxes`).

        Args:
            image: the original image, as anything that `load_image` takes.

        Raises:
            ValueError: the upright image has another size than these boxes were found in.

        Example:
            >>> from PIL import Image
            >>> detections = Detections([[8, 4, 40, 20]], [0.75], [1], {1: "carton"}, (32, 64))
            >>> detections.draw(Image.new("RGB", (64, 32))).size
            (64, 32)
        """
        picture = load_image(image)
        height, width = self.image_size
        if picture.size != (width, height):
            raise ValueError(
                f"The image is {picture.width}x{picture.height}, the boxes were found in one of {width}x{height}: "
                "give the original, read with load_image (which turns it upright)."
            )
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        if self.ids is not None:
            texts = [f"#{i} {text}" if i >= 0 else text for i, text in zip(self.ids, texts, strict=True)]
        return draw_boxes(picture, self.boxes, self.labels, texts, self.scores)


def short_floats(values: np.ndarray | np.floating) -> Any:
    """Python floats with the fewest digits that give back the same float32, so that JSON reads 0.3, not 0.30000001192.

    Example:
        >>> import numpy as np
        >>> short_floats(np.array([0.3, 1067.0], dtype=np.float32))
        [0.3, 1067.0]
    """
    if isinstance(values, np.ndarray) and values.ndim:
        return [short_floats(value) for value in values]
    return float(str(np.float32(values)))


def to_numpy(value: Any) -> np.ndarray:
    """An array out of an array, a list or a tensor on any device; bfloat16, which numpy lacks, becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _refuse_first(wrong: np.ndarray, reason: str, values: np.ndarray, what: str = "box") -> None:
    if wrong.any():
        index = int(wrong.argmax())
        raise ValueError(f"{what} number {index} is {values[index].tolist()}: {reason}.")
