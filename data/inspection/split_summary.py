"""What one split of a data set holds, in numbers."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import datasets

# COCO's areas, in pixels of the original image.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}
# Edges of the histogram of sqrt(box area / image area).
SIDES = (0, 0.02, 0.05, 0.1, 0.2, 0.4, np.inf)
SAME_OBJECT_IOU = 0.9
MOST_NEIGHBOURS = 100  # compared with a box, however many lie in one place


@dataclass(frozen=True)
class SplitSummary:
    """What one split holds, without what was defective when it was loaded.

    Args:
        images: how many.
        images_without_boxes: how many of them.
        boxes: how many; crowds among them are `crowds`.
        boxes_an_image: (fewest, median, most).
        boxes_by_class: of every class, also those that have none.
        images_by_class: how many images have a box of the class.
        image_sizes: 'WIDTHxHEIGHT' -> how many images, the most frequent first.
        box_sizes: small, medium, large by COCO's areas in pixels of the original image -> how many boxes.
        boxed_twice: file name -> pairs of boxes of one class in it that overlap by an IoU of 0.9 or more.
        box_sides: share of the image's side (the root of the share of its area), '2-5%' -> how many boxes.
    """

    images: int
    images_without_boxes: int
    boxes: int
    crowds: int
    boxes_an_image: tuple[int, float, int]
    boxes_by_class: dict[str, int]
    images_by_class: dict[str, int]
    image_sizes: dict[str, int]
    box_sizes: dict[str, int]
    box_sides: dict[str, int]
    boxed_twice: dict[str, int]


def summarize(dataset: "datasets.Dataset", names: tuple[str, ...]) -> SplitSummary:
    """Counts one split in the canonical form; no image is read."""
    columns = dataset.select_columns(["file_name", "width", "height", "objects"]).with_format("arrow")[:]
    sizes = np.stack([columns[side].to_numpy() for side in ("width", "height")], axis=1).reshape(-1, 2)
    objects = columns["objects"].combine_chunks()
    # `flatten` minds where a slice begins, `field` does not.
    lists = dict(zip((field.name for field in objects.type), objects.flatten(), strict=True))
    per_image = np.diff(lists["category"].offsets.to_numpy()) if len(dataset) else np.zeros(0, int)
    labels, areas, crowd = (lists[key].flatten().to_numpy() for key in ("category", "area", "iscrowd"))
    boxes = lists["bbox"].flatten().flatten().to_numpy().reshape(-1, 4).astype(np.float64)
    image_of = np.repeat(np.arange(len(dataset)), per_image)
    sides = np.sqrt(boxes[:, 2] * boxes[:, 3] / sizes[image_of].astype(np.float64).prod(1))
    boxes_by_class = np.bincount(labels, minlength=len(names))
    images_by_class = np.bincount(np.unique(image_of * len(names) + labels) % len(names), minlength=len(names))
    frequent = Counter(map(tuple, sizes.tolist())).most_common()
    file_names = columns["file_name"].to_pylist()
    return SplitSummary(
        images=len(dataset),
        images_without_boxes=int((per_image == 0).sum()),
        boxes=len(boxes),
        crowds=int(crowd.sum()),
        boxes_an_image=_spread(per_image),
        boxes_by_class=dict(zip(names, boxes_by_class.tolist(), strict=True)),
        images_by_class=dict(zip(names, images_by_class.tolist(), strict=True)),
        image_sizes={f"{width}x{height}": count for (width, height), count in frequent},
        box_sizes={name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in SIZES.items()},
        box_sides=dict(zip(_side_names(), np.histogram(sides, SIDES)[0].tolist(), strict=True)),
        boxed_twice={file_names[image]: pairs for image, pairs in _boxed_twice(boxes, labels, crowd, image_of).items()},
    )


def _boxed_twice(boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, image_of: np.ndarray) -> dict[int, int]:
    """Images in which objects seem to be boxed twice, and how often; boxes are x, y, width, height.

    Of two boxes with such an IoU, the right one begins within a tenth of the other's width. In the order of their left
    edges each box is compared with the next, the next but one, ..., until none begins near enough.
    """
    alone = np.flatnonzero(crowd == 0)
    order = alone[np.lexsort((boxes[alone, 0], labels[alone], image_of[alone]))]
    boxes, labels, image_of = boxes[order], labels[order], image_of[order]
    nearest = boxes[:, 0] + (1 - SAME_OBJECT_IOU) * boxes[:, 2] * (1 + 1e-9)
    pairs: Counter[int] = Counter()
    left = np.arange(len(order))
    for step in range(1, MOST_NEIGHBOURS + 1):
        left = left[left + step < len(order)]
        right = left + step
        near = (
            (image_of[left] == image_of[right]) & (labels[left] == labels[right]) & (boxes[right, 0] <= nearest[left])
        )
        left = left[near]
        if not len(left):
            break
        twice = _iou(boxes[left], boxes[left + step]) >= SAME_OBJECT_IOU
        pairs.update(image_of[left[twice]].tolist())
    return dict(sorted(pairs.items()))


def _iou(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) of pairs of boxes x, y, width, height."""
    low = np.maximum(some[:, :2], others[:, :2])
    high = np.minimum(some[:, :2] + some[:, 2:], others[:, :2] + others[:, 2:])
    shared = (high - low).clip(0).prod(1)
    return shared / (some[:, 2:].prod(1) + others[:, 2:].prod(1) - shared)


def _spread(counts: np.ndarray) -> tuple[int, float, int]:
    return (int(counts.min()), float(np.median(counts)), int(counts.max())) if len(counts) else (0, 0.0, 0)


def _side_names() -> list[str]:
    percent = [f"{100 * edge:g}" for edge in SIDES[:-1]]
    return [*(f"{low}-{high}%" for low, high in pairwise(percent)), f"{percent[-1]}% and more"]


__all__ = ["SAME_OBJECT_IOU", "SIDES", "SIZES", "SplitSummary", "summarize"]
