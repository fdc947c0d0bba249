"""An inspection as text for the terminal."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from deformable_detr_refine.messages import counted, printable

from ..defects import Defect
from .split_summary import SplitSummary

MOST_CLASSES = 30
MOST_IMAGE_SIZES = 5
MOST_DEFECTS = 8  # of a kind
BAR = 40
_count = partial(counted, form=",")


def report(
    source: str,
    splits: Mapping[str, SplitSummary],
    notes: Sequence[str],
    defects: Sequence[Defect],
    lost: Mapping[str, int],
) -> str:
    """Counts, histograms, notes, and the first defects of each kind (see `Inspection`)."""
    images, boxes = (sum(getattr(split, what) for split in splits.values()) for what in ("images", "boxes"))
    parts = [f"{source}: {_count(images, 'image')}, {_count(boxes, 'box', 'boxes')}"]
    parts.append(_table(_split_rows(splits)))
    parts.append(_table(_class_rows(splits)))
    parts.append(_table(_image_rows(splits), right=(1,)))
    coco = ("box size", "boxes", "by area in the original image: small below 32x32 pixels, large from 96x96 on")
    parts.append(_table([coco, *_bars(split.box_sizes for split in splits.values())], right=(1,)))
    sides = ("box side", "boxes", "as a share of the image's side: the root of the share of its area")
    parts.append(_table([sides, *_bars(split.box_sides for split in splits.values())], right=(1,)))
    if notes:
        parts.append("\n".join(["Notes", *(f"  {note}" for note in notes)]))
    parts.append(_defects(defects, lost))
    return "\n\n".join(parts)


def _split_rows(splits: Mapping[str, SplitSummary]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("split", "images", "without boxes", "boxes", "crowds", "boxes an image: fewest, median, most")
    ]
    for name, split in splits.items():
        fewest, median, most = split.boxes_an_image
        counts = (split.images, split.images_without_boxes, split.boxes, split.crowds)
        rows.append((printable(name), *(f"{count:,}" for count in counts), f"{fewest}, {median:g}, {most}"))
    return rows


def _class_rows(splits: Mapping[str, SplitSummary]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        (
            "class",
            *(f"{printable(name)} boxes" for name in splits),
            *(f"{printable(name)} images" for name in splits),
            "share",
        )
    ]
    total = Counter()
    for split in splits.values():
        total.update(split.boxes_by_class)
    all_boxes = max(sum(total.values()), 1)
    for label, count in total.most_common(MOST_CLASSES):
        boxes = (f"{split.boxes_by_class[label]:,}" for split in splits.values())
        images = (f"{split.images_by_class[label]:,}" for split in splits.values())
        rows.append((printable(label, 30), *boxes, *images, f"{100 * count / all_boxes:.1f}%"))
    if len(total) > MOST_CLASSES:
        rows.append((f"and {len(total) - MOST_CLASSES} more classes",))
    return rows


def _image_rows(splits: Mapping[str, SplitSummary]) -> list[Sequence[str]]:
    sizes = Counter()
    for split in splits.values():
        sizes.update(split.image_sizes)
    rows = [("image size", "images"), *((size, f"{count:,}") for size, count in sizes.most_common(MOST_IMAGE_SIZES))]
    if len(sizes) > MOST_IMAGE_SIZES:
        sides = [sorted(map(int, size.split("x"))) for size in sizes]
        (shortest, _), (_, longest) = min(sides), max(sides, key=lambda pair: pair[1])
        rows.append((f"and {len(sizes) - MOST_IMAGE_SIZES} more sizes; sides from {shortest} to {longest} pixels",))
    return rows


def _bars(counts: Iterable[dict[str, int]]) -> list[Sequence[str]]:
    total = Counter()
    for some in counts:
        total.update(some)
    most = max(total.values(), default=0) or 1
    return [(name, f"{count:,}", "#" * -(-BAR * count // most)) for name, count in total.items()]


def _defects(defects: Sequence[Defect], lost: Mapping[str, int]) -> str:
    if not defects:
        return "No defects."
    objects, images = lost["objects"], lost["images"]
    losing = f"they would lose {_count(objects, 'object')} and {_count(images, 'image')}"
    lines = [f"{_count(len(defects), 'defect')}; {losing if objects or images else 'nothing would be lost'}"]
    by_kind: dict[str, list[Defect]] = {}
    for defect in defects:
        by_kind.setdefault(defect.kind, []).append(defect)
    for kind, of_kind in sorted(by_kind.items(), key=lambda item: (not item[1][0].loses, -len(item[1]))):
        loses = f", each loses an {of_kind[0].loses}" if of_kind[0].loses else ""
        lines.append(f"  {kind}: {len(of_kind):,}{loses}")
        lines += [f"    {defect}" for defect in of_kind[:MOST_DEFECTS]]
        if len(of_kind) > MOST_DEFECTS:
            lines.append(f"    ... and {len(of_kind) - MOST_DEFECTS:,} more")
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]], right: Sequence[int] | None = None) -> str:
    """Columns side by side: numbers to the right, by default all but the first column."""
    width = max(len(row) for row in rows)
    whole = [row for row in rows if len(row) == width]
    widths = [max(len(row[column]) for row in whole) for column in range(width)]
    to_right = range(1, width) if right is None else right
    lines = []
    for row in rows:
        cells = (
            cell.rjust(widths[column]) if column in to_right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


__all__ = ["report"]
