"""What can be wrong with a data set: the kinds of defects, and the checks of boxes that find them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from deformable_detr_refine.messages import counted, printable

# Boxes end a little beyond the edge where their corners were rounded, or counted from 1.
EDGE_TOLERANCE = 0.5  # pixels
_FARTHEST = 1e9  # pixels; float32 holds it
SHOWN_DEFECTS = 5


class DataError(ValueError):
    """One clear sentence: which file and line, what is wrong there, and what to do."""


class AnnotationError(DataError):
    """A `DataError` at one line of a file.

    Example:
        >>> str(AnnotationError("a.xml", 7, "the tag is not closed"))
        'a.xml:7: the tag is not closed.'
    """

    def __init__(self, file: object, line: int, reason: str):
        super().__init__(f"{file}:{line}: {reason}.")
        self.line, self.reason = line, reason


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with a data set.

    Args:
        kind: one of the kinds below, the same words for the same fault in every format.
        where: 'file:line' of the annotation; the split and row for a set without lines.
        image: the image's file name, as the data set gives it ("" where it is of no image).
        text: what is wrong, with the numbers.
        loses: "object" or "image" when leaving it out costs one; "" when nothing is lost (a box that gets clipped).
    """

    kind: str
    where: str
    image: str
    text: str
    loses: str = "object"

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


# Kinds that readers find, beside those of boxes.
ABSENT_IMAGE = "absent image"
UNREADABLE_IMAGE = "unreadable image"
OUTSIDE_FOLDER = "outside the folder"
DUPLICATE_IMAGE = "duplicate image"
UNREADABLE_ANNOTATION = "unreadable annotation"
UNKNOWN_IMAGE = "unknown image"
UNKNOWN_LABEL = "unknown label"
OTHER_NAME = "other file name"
BOX_FORM = "box form"
NO_IMAGE_NAME = "no image by its name"


class BoxFault(IntEnum):
    """What `box_faults` finds; the worst first."""

    NONE = 0
    NOT_FINITE = 1
    SWAPPED_CORNERS = 2
    NO_AREA = 3
    OUTSIDE = 4
    PARTLY_OUTSIDE = 5

    @property
    def kind(self) -> str:
        return _KINDS[self]

    @property
    def loses(self) -> str:
        return "" if self in (BoxFault.NONE, BoxFault.PARTLY_OUTSIDE) else "object"


_KINDS = {
    BoxFault.NONE: "",
    BoxFault.NOT_FINITE: "not finite",
    BoxFault.SWAPPED_CORNERS: "swapped corners",
    BoxFault.NO_AREA: "no area",
    BoxFault.OUTSIDE: "outside the image",
    BoxFault.PARTLY_OUTSIDE: "partly outside",
}


def box_faults(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Checks boxes against the size of their image.

    Args:
        boxes: (N, 4) x, y, width, height in pixels of the upright image.
        sizes: (N, 2) width and height of each box's image.

    Returns:
        (N,) int8, a `BoxFault` each; 0 is a sound box. Up to half a pixel over the edge is sound.

    Example:
        >>> boxes = [[1, 1, 5, 5], [1, 1, 0, 5], [9, 1, -5, 5], [20, 1, 5, 5], [8, 1, 5, 5], [float("nan"), 1, 5, 5]]
        >>> [BoxFault(fault).kind for fault in box_faults(np.array(boxes), np.array([[10, 10]] * 6))]
        ['', 'no area', 'swapped corners', 'outside the image', 'partly outside', 'not finite']
    """
    boxes, sizes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(sizes).reshape(-1, 2)
    low, extent = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore", over="ignore"):
        high = low + extent
        over_edge = (low < -EDGE_TOLERANCE).any(1) | (high > sizes + EDGE_TOLERANCE).any(1)
        faults = np.where(over_edge, BoxFault.PARTLY_OUTSIDE, BoxFault.NONE)
        faults[(low >= sizes).any(1) | (high <= 0).any(1)] = BoxFault.OUTSIDE
        faults[(extent == 0).any(1)] = BoxFault.NO_AREA
        faults[(extent < 0).any(1)] = BoxFault.SWAPPED_CORNERS
        faults[~((np.abs(low) < _FARTHEST) & (np.abs(high) < _FARTHEST)).all(1)] = BoxFault.NOT_FINITE
    return faults.astype(np.int8)


def fault_text(fault: int, name: str, box: Sequence[float] | np.ndarray, size: Sequence[int] | np.ndarray) -> str:
    """What is wrong with one box, for a person.

    Args:
        fault: a `BoxFault`.
        name: the class of the box.
        box: x, y, width, height in pixels.
        size: width and height of the image.

    Example:
        >>> fault_text(BoxFault.NO_AREA, "Platelets", (6, 20, 30, 0), (640, 480))
        'the box of Platelets has no area (x 6, y 20, width 30, height 0)'
    """
    x, y, width, height = (float(value) for value in box)
    numbers = f"x {x:g}, y {y:g}, width {width:g}, height {height:g}"
    image = f"{int(size[0])}x{int(size[1])} image"
    said = {
        BoxFault.NOT_FINITE: f"is not made of finite numbers ({numbers})",
        BoxFault.SWAPPED_CORNERS: f"ends before it begins, as with swapped corners ({numbers})",
        BoxFault.NO_AREA: f"has no area ({numbers})",
        BoxFault.OUTSIDE: f"lies outside its {image} ({numbers})",
        BoxFault.PARTLY_OUTSIDE: f"stands over the edge of its {image} ({numbers})",
    }
    return f"the box of {printable(name)} {said[BoxFault(fault)]}"


def count_defects(defects: Iterable[Defect]) -> dict[str, int]:
    """How many there are of each kind, the most frequent first.

    Example:
        >>> count_defects([Defect("no area", "a.xml:7", "a.jpg", "..."), Defect("no area", "a.xml:9", "a.jpg", "...")])
        {'no area': 2}
    """
    return dict(Counter(defect.kind for defect in defects).most_common())


def refuse_losses(defects: Iterable[Defect], source: str) -> None:
    """Raises one `DataError` that names the first defects that would lose an object or an image."""
    lost = [defect for defect in defects if defect.loses]
    if not lost:
        return
    counts = Counter(defect.loses for defect in lost)
    what = " and ".join(counted(count, name) for name, count in sorted(counts.items()))
    kinds = ", ".join(f"{kind} {count}" for kind, count in count_defects(lost).items())
    raise DataError(
        f'{source}: {what} would be lost ({kinds}); mend them, or leave them out with defects="skip".{first_of(lost)}'
    )


def box_form_notes(defects: Iterable[Defect]) -> list[str]:
    """What has to be said even where nothing is lost: that boxes were not of the form that their file is known for."""
    return [str(defect) for defect in defects if defect.kind == BOX_FORM]


def first_of(defects: Sequence[Defect]) -> str:
    """The first few, a line each, to stand behind a sentence; nothing when there is none."""
    lines = "".join(f"\n  {defect}" for defect in defects[:SHOWN_DEFECTS])
    return lines + (f"\n  ... and {len(defects) - SHOWN_DEFECTS} more" if len(defects) > SHOWN_DEFECTS else "")


@contextmanager
def command_line_words() -> Iterator[None]:
    """Errors of a data set say `--defects skip`, `--split NAME` within the block, for one who has no Python at hand.

    Example:
        >>> with command_line_words():
        ...     raise DataError('leave them out with defects="skip"')
        Traceback (most recent call last):
        ...
        deformable_detr_refine.data.defects.DataError: leave them out with --defects skip
    """
    try:
        yield
    except DataError as error:
        text = re.sub(r'\b(defects|split)="([^"]+)"', r"--\1 \2", str(error))
        if text == str(error):
            raise
        raise DataError(text) from error


__all__ = [
    "ABSENT_IMAGE",
    "BOX_FORM",
    "DUPLICATE_IMAGE",
    "NO_IMAGE_NAME",
    "OTHER_NAME",
    "OUTSIDE_FOLDER",
    "UNKNOWN_IMAGE",
    "UNKNOWN_LABEL",
    "UNREADABLE_ANNOTATION",
    "UNREADABLE_IMAGE",
    "AnnotationError",
    "BoxFault",
    "DataError",
    "Defect",
    "box_faults",
    "box_form_notes",
    "command_line_words",
    "count_defects",
    "fault_text",
    "first_of",
    "refuse_losses",
]
