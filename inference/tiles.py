"""Small objects in large images: the image cut into overlapping tiles, and one list of boxes out of all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deformable_detr_refine.modeling.image_io import image_size

from .batches import batches_of_equal_shape
from .detections import to_numpy

# In pixels: what is smaller is left out of training too.
LEAST_TILE_SIDE = 32
MOST_IN_A_ROW = 256
# A box that ends nearer than this share of the tile's side to its border may be one of a part of an object.
BORDER = 0.01


class Tile(NamedTuple):
    """A rectangle of an image, in its pixels; the far corner does not belong to it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Tiling:
    """How images are cut: into a grid, or into tiles of one size; those of an image are alike and spread evenly.

    What fits into the overlap of two tiles is whole in one of them, and what does not is looked for in the whole image
    too. So the whole image's boxes count where they are larger than the overlap, and a tile's where they do not end at
    a border inside the image; of those of one class that overlap each other, the best is kept.

    Args:
        grid: (columns, rows).
        size: side of a tile in pixels, instead of a grid. A side of the image that is shorter is not cut.
        overlap: of neighbours, as a share of a tile's side, 0..0.9.
        whole: look at the whole image too.
        nms_threshold: IoU above which the worse of two boxes of one class is dropped, 0..1.

    Raises:
        ValueError: a value is out of its range, or there are both a grid and a size, or neither.

    Example:
        >>> Tiling(grid=(2, 1), overlap=0.5).tiles(60, 150)
        [Tile(left=0, top=0, right=150, bottom=60), Tile(left=0, top=0, right=100, bottom=60), Tile(left=50, top=0, \
right=150, bottom=60)]
    """

    grid: tuple[int, int] | None = None
    size: int | None = None
    overlap: float = 0.25
    whole: bool = True
    nms_threshold: float = 0.5

    def __post_init__(self):
        if (self.grid is None) == (self.size is None):
            raise ValueError("Tiles are given by a grid or by their size, one of the two.")
        if self.grid is not None and (min(self.grid) < 1 or max(self.grid) < 2):
            raise ValueError(f"A grid of {self.grid[0]}x{self.grid[1]} cuts nothing; 3x2 is 3 columns and 2 rows.")
        if self.grid is not None and max(self.grid) > MOST_IN_A_ROW:
            raise ValueError(f"A grid of {self.grid[0]}x{self.grid[1]} has more than {MOST_IN_A_ROW} tiles in a row.")
        if self.size is not None and self.size < LEAST_TILE_SIDE:
            raise ValueError(f"Tiles of {self.size} pixels are too small; their side is at least {LEAST_TILE_SIDE}.")
        if not 0 <= self.overlap <= 0.9:
            raise ValueError(f"The overlap of tiles is {self.overlap}, expected a share of their side, 0 to 0.9.")
        if not 0 <= self.nms_threshold <= 1:
            raise ValueError(f"The IoU of tiles' boxes is {self.nms_threshold}, expected 0 to 1.")

    def __str__(self) -> str:
        """As a report names it.

        Example:
            >>> str(Tiling(grid=(3, 2)))
            '3x2 tiles, overlap 0.25, IoU 0.5, with the whole image'
        """
        what = f"{self.grid[0]}x{self.grid[1]} tiles" if self.grid else f"tiles of {self.size} pixels"
        whole = "with" if self.whole else "without"
        return f"{what}, overlap {self.overlap:g}, IoU {self.nms_threshold:g}, {whole} the whole image"

    def cuts(self, height: int, width: int) -> bool:
        """Whether an image of this size is cut at all."""
        return self.grid is not None or (self.size or 0) < max(height, width)

    def check(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Check that of images of these (height, width) at least one is cut.

        Raises:
            ValueError: none is.
        """
        sizes = set(sizes)
        if sizes and not any(self.cuts(*size) for size in sizes):
            height, width = max(sizes, key=max)
            raise ValueError(
                f"A tile of {self.size} pixels is no smaller than the largest image, {width}x{height}: nothing would "
                "be cut. Take smaller tiles, or none."
            )

    def check_images(self, images: Iterable[str | PathLike[str]]) -> None:
        """The same of image files, by their headers; what cannot be read so, as a URL, may be larger.

        Raises:
            ValueError: none is cut.
        """
        sizes = set()
        for image in images:
            try:
                width, height = image_size(image)
            except (OSError, ValueError):
                return
            if self.cuts(height, width):
                return
            sizes.add((height, width))
        self.check(sizes)

    def tiles(self, height: int, width: int) -> list[Tile]:
        """What is looked at: the whole image first, then its tiles in rows; the image alone where nothing is cut.

        Raises:
            ValueError: the grid is too fine for the image.
        """
        whole = Tile(0, 0, width, height)
        if not self.cuts(height, width):
            return [whole]
        columns, rows = self.grid or (None, None)
        across, down = self._spans(width, columns), self._spans(height, rows)
        tiles = [Tile(left, top, right, bottom) for top, bottom in down for left, right in across]
        if min(tiles[0].shape) < min(LEAST_TILE_SIDE, height, width):
            raise ValueError(
                f"A grid of {columns}x{rows} is too fine for an image of {width}x{height}: a tile's side is at least "
                f"{LEAST_TILE_SIDE} pixels."
            )
        return [whole] * self.whole + tiles

    def _spans(self, side: int, count: int | None) -> list[tuple[int, int]]:
        """First pixel and end of every tile along one side of the image."""
        if count is None:
            length = min(self.size or side, side)
            count = 1 + ceil((side - length) / (length * (1 - self.overlap)))
        else:
            length = ceil(side / (count - (count - 1) * self.overlap))
        starts = [round(number * (side - length) / max(count - 1, 1)) for number in range(count)]
        return [(start, start + length) for start in starts]


def grid_of(text: str) -> tuple[int, int]:
    """Columns and rows, as they are written.

    Raises:
        ValueError: it is no grid.

    Example:
        >>> grid_of("3x2")
        (3, 2)
    """
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal()):
        raise ValueError(f"{text!r} is no grid of tiles, COLUMNSxROWS as 3x2.")
    return int(columns), int(rows)


def detect_in_tiles(
    image: Image.Image,
    tiling: Tiling,
    detect: Callable[[Sequence[Image.Image]], Sequence[dict[str, Any]]],
    shape_of: Callable[[int, int], tuple[int, int]],
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Detects in an image of any size, in the memory of one batch of its tiles.

    Args:
        image: the upright image.
        tiling: how it is cut.
        detect: gives `boxes` (N, 4) xyxy in pixels, `scores` and `labels` (N,) of each of up to `batch_size` images, as
            `Network.run` does.
        shape_of: from (height, width) to the shape that the image processor makes of it. Only tiles of one shape go
            through the model together.
        batch_size: most tiles at a time.

    Returns:
        The same of the whole image, in its pixels, best first.

    Raises:
        ValueError: the image cannot be cut like this, or the model refuses a tile.
    """
    size = (image.height, image.width)
    tiles = tiling.tiles(*size)
    found = []
    for batch in batches_of_equal_shape(tiles, lambda tile: shape_of(*tile.shape), batch_size):
        crops = [image if tile.shape == size else image.crop(tile) for tile in batch]
        found += zip(batch, detect(crops), strict=True)
    return merge_tiles(found, size, tiling)


def merge_tiles(
    found: Sequence[tuple[Tile, dict[str, Any]]], size: tuple[int, int], tiling: Tiling
) -> dict[str, np.ndarray]:
    """One list of boxes out of those of all tiles of an image.

    Args:
        found: with each tile `boxes` (N, 4) xyxy in its own pixels, `scores` and `labels` (N,).
        size: (height, width) of the image.
        tiling: says how.

    Returns:
        `boxes` (M, 4) in pixels of the image, `scores` and `labels` (M,), best first.
    """
    parts = {name: [] for name in ("boxes", "scores", "labels")}
    if len(found) == 1:
        return {name: to_numpy(found[0][1][name]) for name in parts}
    height, width = tiling.tiles(*size)[-1].shape
    overlap = ((tiling.overlap - 2 * BORDER) * height, (tiling.overlap - 2 * BORDER) * width)
    for tile, result in found:
        values = {name: to_numpy(result[name]) for name in parts}
        boxes = values["boxes"] + np.array([tile.left, tile.top] * 2, np.float32)
        kept = _counts(boxes, tile, size, overlap) if tiling.whole else slice(None)
        for name, value in (values | {"boxes": boxes}).items():
            parts[name].append(value[kept])
    merged = {name: np.concatenate(values) for name, values in parts.items()}
    best = _best_of_each_object(merged["boxes"], merged["scores"], merged["labels"], tiling.nms_threshold)
    return {name: value[best] for name, value in merged.items()}


def _best_of_each_object(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression by class: boxes (N, 4) xyxy, scores and labels (N,) -> which are kept, best first."""
    order = np.argsort(-scores, kind="stable")
    if not len(order):
        return order
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    # A box of width w is compared only with those of its class that begin near it, on a line on which each class begins
    # where the one before has ended: what begins d pixels to its left has an IoU of at most w / (w + d) with it, and
    # what begins d pixels to its right 1 - d / w. A pixel more, for rounding.
    left, width = boxes[:, 0].astype(float), (boxes[:, 2] - boxes[:, 0]).astype(float)
    least, most = left.min(), left.max()
    before = left - width * (1 / max(threshold, 1e-9) - 1) - 1
    after = left + width * (1 - threshold) + 1
    start = labels * (most - least + 1)
    along = np.argsort(start + left)
    places = (start + left)[along]
    first = np.searchsorted(places, start + before.clip(least, most))
    last = np.searchsorted(places, start + after.clip(least, most), "right")
    dropped = np.zeros(len(order), bool)
    for best in order:
        if dropped[best]:
            continue
        others = along[first[best] : last[best]]
        sides = np.minimum(boxes[best, 2:], boxes[others, 2:]) - np.maximum(boxes[best, :2], boxes[others, :2])
        common = sides.clip(0).prod(1)
        same = common > threshold * (areas[best] + areas[others] - common)
        dropped[others[same]] = True
        dropped[best] = False
    return order[~dropped[order]]


def _counts(boxes: np.ndarray, tile: Tile, size: tuple[int, int], overlap: tuple[float, float]) -> np.ndarray:
    """Which boxes, in pixels of the image, are of objects that the tile is to find (see `Tiling`)."""
    left, top, right, bottom = boxes.T
    if tile.shape == size:
        return (bottom - top > overlap[0]) | (right - left > overlap[1])
    down, across = (BORDER * side for side in tile.shape)
    return (
        ((left > tile.left + across) | (tile.left == 0))
        & ((top > tile.top + down) | (tile.top == 0))
        & ((right < tile.right - across) | (tile.right == size[1]))
        & ((bottom < tile.bottom - down) | (tile.bottom == size[0]))
    )


__all__ = ["Tile", "Tiling", "detect_in_tiles", "grid_of", "merge_tiles"]
