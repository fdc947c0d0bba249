"""What is in a data set, and what is wrong with it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deformable_detr_refine.inference.tiles import Tiling
from deformable_detr_refine.messages import counted, printable

from ..defects import BOX_FORM, Defect, count_defects
from ..detection_data import DetectionData
from ..tiled_rows import TileSummary, summarize_tiles
from .image_checks import LEAK, OTHER_SIZE, check_images, unlisted_images
from .split_summary import SAME_OBJECT_IOU, SplitSummary, summarize
from .text import report

# Of an image, in COCO's evaluation.
KEPT_DETECTIONS = 100


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`; `str` of it is a report for the terminal.

    Args:
        source: where the data set is.
        format: how it was read.
        splits: a summary of each.
        defects: all that is wrong, in the order found.
        notes: what is not wrong but worth to know, a sentence each.
        tiles: of each split, where it is to be cut.
    """

    source: str
    format: str
    splits: dict[str, SplitSummary]
    defects: tuple[Defect, ...]
    notes: tuple[str, ...]
    tiles: dict[str, TileSummary] = field(default_factory=dict)

    @property
    def lost(self) -> dict[str, int]:
        """How many objects and images the defects would lose."""
        counts = Counter(defect.loses for defect in self.defects)
        return {"objects": counts["object"], "images": counts["image"]}

    @property
    def sound(self) -> bool:
        """Whether nothing gets lost, no split holds an image of another, and sizes and forms of boxes are as stated."""
        return not any(defect.loses or defect.kind in (LEAK, OTHER_SIZE, BOX_FORM) for defect in self.defects)

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
            **({"tiles": {name: asdict(summary) for name, summary in self.tiles.items()}} if self.tiles else {}),
        }

    def __str__(self) -> str:
        return report(f"{self.source} ({self.format})", self.splits, self.notes, self.defects, self.lost)


def inspect(
    data: DetectionData, whole: bool = True, progress: bool = False, tiling: Tiling | None = None
) -> Inspection:
    """Counts what a data set holds, and looks for everything that is wrong; every image is decoded once.

    Args:
        data: loaded with defects="skip", so that its defects come along.
        whole: all splits are there; only then an image that no annotation names is told.
        progress: show a bar on a terminal.
        tiling: also count what tiles make of it.
    """
    if tiling is not None:
        tiling.check(size for rows in data.splits.values() for size in zip(rows["height"], rows["width"], strict=True))
    tiles = {name: summarize_tiles(dataset, tiling) for name, dataset in data.splits.items()} if tiling else {}
    splits = {name: summarize(dataset, data.label_map.names) for name, dataset in data.splits.items()}
    defects = (*data.defects, *check_images(data, progress), *(unlisted_images(data) if whole else ()))
    notes = (*_notes(splits), *(_tiles_note(name, summary) for name, summary in tiles.items()))
    return Inspection(data.source, data.format, splits, defects, notes, tiles)


def _tiles_note(split: str, tiles: TileSummary) -> str:
    note = (
        f"{printable(split)}: with their tiles {counted(tiles.images, 'image')}, {tiles.images_without_boxes} of them "
        f"without a box, {counted(tiles.boxes, 'box', 'boxes')}"
    )
    alone = f"; {counted(tiles.boxes_in_no_tile, 'object')} in no tile, but in the whole image"
    return f"{note}{alone if tiles.boxes_in_no_tile else ''}."


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


__all__ = ["Inspection", "inspect"]
