"""What is in a data set, and what is wrong with it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.ops import box_iou

from deformable_detr_refine.messages import printable

from ..defects import Defect, count_defects
from ..detection_data import DetectionData
from .image_checks import LEAK, OTHER_SIZE, check_images, unlisted_images

if TYPE_CHECKING:
    import datasets

# COCO's areas, in pixels of the original image.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}
# Edges of the histogram of sqrt(box area / image area).
SIDES = (0, 0.02, 0.05, 0.1, 0.2, 0.4, np.inf)
KEPT_DETECTIONS = 100
SAME_OBJECT_IOU = 0.9


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


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`; `str` of it is a report for the terminal.

    Args:
        source: where the data set is.
        format: how it was read.
        splits: a summary of each.
        defects: all that is wrong, in the order found.
        notes: what is not wrong but worth to know, a sentence each.
    """

    source: str
    format: str
    splits: dict[str, SplitSummary]
    defects: tuple[Defect, ...]
    notes: tuple[str, ...]

    @property
    def lost(self) -> dict[str, int]:
        """How many objects and images the defects would lose."""
        counts = Counter(defect.loses for defect in self.defects)
        return {"objects": counts["object"], "images": counts["image"]}

    @property
    def sound(self) -> bool:
        """Whether nothing gets lost, no split holds an image of another, and all sizes are as stated."""
        return not any(defect.loses or defect.kind in (LEAK, OTHER_SIZE) for defect in self.defects)

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        return {
            "source": self.source,
            "format": self.format,
            "sound": self.sound,
            "splits": {name: asdict(summary) for name, summary in self.splits.items()},
            "lost": self.lost,
            "defect_counts": count_defects(self.defects),
            "defects": [asdict(defect) for defect in self.defects],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from .text import report

        return report(self)


def inspect(data: DetectionData, whole: bool = True, progress: bool = False) -> Inspection:
    """Counts what a data set holds, and looks for everything that is wrong; every image is decoded once.

    Args:
        data: loaded with defects="skip", so that its defects come along.
        whole: all splits are there; only then an image that no annotation names is told.
        progress: show a bar on a terminal.
    """
    splits = {name: summarize(dataset, data.label_map.names) for name, dataset in data.splits.items()}
    defects = (*data.defects, *check_images(data, progress), *(unlisted_images(data) if whole else ()))
    return Inspection(data.source, data.format, splits, defects, tuple(_notes(splits)))


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
        boxed_twice={file_names[image]: pairs for image, pairs in _boxed_twice(boxes, labels, crowd, per_image)},
    )


def _boxed_twice(
    boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, per_image: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Images in which objects seem to be boxed twice, and how often; boxes are x, y, width, height, image by image."""
    corners = torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
    for image, (start, end) in enumerate(pairwise(np.concatenate([[0], np.cumsum(per_image)]).tolist())):
        overlaps = box_iou(corners[start:end], corners[start:end]).triu(1).numpy() >= SAME_OBJECT_IOU
        of_one_class = labels[start:end, None] == labels[None, start:end]
        alone = crowd[start:end] == 0
        if pairs := int((overlaps & of_one_class & alone[:, None] & alone[None]).sum()):
            yield image, pairs


def _spread(counts: np.ndarray) -> tuple[int, float, int]:
    return (int(counts.min()), float(np.median(counts)), int(counts.max())) if len(counts) else (0, 0.0, 0)


def _side_names() -> list[str]:
    percent = [f"{100 * edge:g}" for edge in SIDES[:-1]]
    return [*(f"{low}-{high}%" for low, high in pairwise(percent)), f"{percent[-1]}% and more"]


def _notes(splits: Mapping[str, SplitSummary]) -> list[str]:
    notes = [f"{printable(name)}: {text}." for name, split in splits.items() for text in _notes_of(split)]
    total = Counter()
    for split in splits.values():
        total.update(split.boxes_by_class)
    there = [(count, label) for label, count in total.items() if count]
    if len(there) > 1:
        (least, rare), (most, frequent) = min(there), max(there)
        times = f"{most / least:.1f} times the boxes of {printable(rare)}, the rarest"
        notes.append(f"{printable(frequent)}, the most frequent class, has {times}.")
    return notes


def _notes_of(split: SplitSummary) -> Iterator[str]:
    if split.images_without_boxes:
        yield f"{split.images_without_boxes} of {split.images} images have no box"
    if (most := split.boxes_an_image[2]) > KEPT_DETECTIONS:
        yield f"an image has {most} boxes; an evaluation keeps {KEPT_DETECTIONS} detections of each"
    if missing := [label for label, count in split.boxes_by_class.items() if not count]:
        yield f"no box of {_some(missing)}"
    if split.boxed_twice:
        number, first = sum(split.boxed_twice.values()), printable(next(iter(split.boxed_twice)))
        seem = f"{number} object{'s seem' if number > 1 else ' seems'} to be boxed twice"
        yield f"{seem} (same class, IoU {SAME_OBJECT_IOU:g} or more), the first in {first}"


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(map(printable, names[:most])) + (
        f" and {len(names) - most} more classes" if len(names) > most else ""
    )


__all__ = ["Inspection", "SplitSummary", "inspect", "summarize"]
