"""What `ddetr verify` found: rows of largest differences, as a table for people and a dictionary for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .difference import Difference


@dataclass(frozen=True)
class SamePixels:
    """One image, alone or in a batch, both detectors fed the same pixels.

    Attributes:
        image: its name, with the batch's size when it is in one.
        shape: (height, width) of the tensor it was in.
        pixel_values: largest difference when our processor normalises and pads MMDetection's resized image; beside
            transformers, of all that the two processors do.
        difference: of everything after the pixels.
        tie: when the first stages chose different tokens, how far the scores of those in question are apart at most.
    """

    image: str
    shape: tuple[int, int]
    pixel_values: float
    difference: Difference
    tie: float | None = None

    @property
    def verdict(self) -> str:
        if self.pixel_values <= self.difference.tolerance and self.difference.passed:
            return "PASS"
        if self.tie is not None and self.tie <= self.difference.tolerance:
            return "TIE"
        return "FAIL"


@dataclass(frozen=True)
class OwnResize:
    """One image from its file to its detections, each side with its own resizing.

    Attributes:
        grey_levels: largest difference of the resized images, in 0..255; None when their shapes differ.
        mean_grey_levels: the mean difference.
        alike: detections of MMDetection's that have a partner here: same label, IoU over 0.9, scores within 0.05.
        detections: how many MMDetection gives.
    """

    image: str
    shape: tuple[int, int]
    their_shape: tuple[int, int]
    grey_levels: int | None
    mean_grey_levels: float | None
    alike: int
    detections: int

    # cv2's and torchvision's bilinear differ by rounding, one level; JPEG decoders may add a few.
    GROSS = 8

    @property
    def verdict(self) -> str:
        return "FAIL" if self.grey_levels is None or self.grey_levels > self.GROSS else "ok"


@dataclass(frozen=True)
class RoundTrip:
    """The checkpoint after `ddetr convert` and `ddetr convert --to mmdet`, loaded strictly by MMDetection.

    Attributes:
        equal, tensors: how many tensors are the same bit by bit, under the same names.
        logits, boxes: largest differences of what MMDetection computes from the two files.
    """

    equal: int
    tensors: int
    logits: float
    boxes: float
    tolerance: float

    @property
    def verdict(self) -> str:
        close = self.logits <= self.tolerance and self.boxes <= self.tolerance
        return "PASS" if close and self.equal == self.tensors else "FAIL"


@dataclass
class Report:
    """All rows. `passed` when none failed and at least one was compared."""

    checkpoint: str
    versions: dict[str, str]
    same_pixels: list[SamePixels] = field(default_factory=list)
    own_resize: list[OwnResize] = field(default_factory=list)
    round_trip: RoundTrip | None = None

    @property
    def passed(self) -> bool:
        rows = [*self.same_pixels, *self.own_resize, *([self.round_trip] if self.round_trip else [])]
        verdicts = [row.verdict for row in rows]
        return "FAIL" not in verdicts and "PASS" in verdicts

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "checkpoint": self.checkpoint,
            "passed": self.passed,
            "versions": self.versions,
            "same_pixels": [{**asdict(row), "verdict": row.verdict} for row in self.same_pixels],
            "own_resize": [{**asdict(row), "verdict": row.verdict} for row in self.own_resize],
            "round_trip": {**asdict(self.round_trip), "verdict": self.round_trip.verdict} if self.round_trip else None,
        }

    def __str__(self) -> str:
        tolerance = self.same_pixels[0].difference.tolerance
        parts = [
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            f"\nSame pixels into both: largest differences, tolerance {tolerance:g} "
            f"(corners {1.5 * tolerance:g} of the long side)",
            _table(
                ["image", "tensor", "pixels", "starts", "logits", "boxes", "scores", "corners", "detections", ""],
                [_same_pixels_cells(row) for row in self.same_pixels],
            ),
        ]
        if self.own_resize:
            parts += [
                "\nFrom the file, each with its own resizing, for information: a grey level of difference changes weak"
                "\ndetections. Alike: the same label, IoU over 0.9, scores within 0.05",
                _table(
                    ["image", "resized", "grey levels", "mean", "alike detections", ""],
                    [_own_resize_cells(row) for row in self.own_resize],
                ),
            ]
        if (trip := self.round_trip) is not None:
            parts += [
                "\nBack to MMDetection (convert --to mmdet), loaded strictly by it",
                _table(
                    ["equal tensors", "logits", "boxes", ""],
                    [[f"{trip.equal}/{trip.tensors}", _number(trip.logits), _number(trip.boxes), trip.verdict]],
                ),
            ]
        if any(row.verdict == "TIE" for row in self.same_pixels):
            parts.append(
                "\nTIE: the last tokens that the two first stages chose differ, and their scores are equal within the "
                "tolerance; the decoders then start from different places, and nothing after it can be compared."
            )
        return "\n".join([*parts, "", "PASS" if self.passed else "FAIL"])


def _same_pixels_cells(row: SamePixels) -> list[str]:
    difference = row.difference
    cut = f" (+{difference.at_the_cut} tied)" if difference.at_the_cut else ""
    return [
        row.image,
        "x".join(map(str, row.shape)),
        _number(row.pixel_values),
        f"{difference.starts}/{difference.queries}",
        _number(difference.logits),
        _number(difference.boxes),
        _number(difference.scores),
        f"{_number(difference.box_pixels)} px",
        f"{difference.agreeing}/{difference.detections}{cut}",
        row.verdict,
    ]


def _own_resize_cells(row: OwnResize) -> list[str]:
    shape = "x".join(map(str, row.shape))
    if row.grey_levels is None:
        shape += f", MMDetection {'x'.join(map(str, row.their_shape))}"
        levels, mean = "-", "-"
    else:
        levels, mean = str(row.grey_levels), f"{row.mean_grey_levels:.3f}"
    return [row.image, shape, levels, mean, f"{row.alike}/{row.detections}", row.verdict]


def _number(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    sides = [str.ljust] + [str.rjust] * (len(head) - 1)
    return "\n".join(
        "  ".join(side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)) for line in lines
    )


__all__ = ["OwnResize", "Report", "RoundTrip", "SamePixels"]
