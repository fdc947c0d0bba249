"""A data set seen in tiles: its images, and their tiles, are images of their own."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deformable_detr_refine.inference.tiles import Tile, Tiling

from .row_image import row_image

if TYPE_CHECKING:
    import datasets

SHARE = 0.5


def check_tiles(dataset: "datasets.Dataset", tiling: Tiling, shape_of: Callable[[int, int], tuple[int, int]]) -> None:
    """Check that every image of a split can be cut and every tile resized, at least one image being cut.

    Args:
        shape_of: from (height, width) to the shape that the image processor makes of it.

    Raises:
        ValueError: one cannot; the message names it.
    """
    sizes = list(zip(dataset["height"], dataset["width"], strict=True))
    tiling.check(sizes)
    for size in set(sizes):
        try:
            for shape in {tile.shape for tile in tiling.tiles(*size)}:
                shape_of(*shape)
        except ValueError as error:
            raise ValueError(f"{dataset[sizes.index(size)]['file_name']}: {error}") from error


class TiledRows(Sequence):
    """The rows of a split, cut: what is looked at in detection is what is trained on.

    An object belongs to a tile when its centre, or the given share of its area, lies in it; its box ends where the tile
    does. A crowd belongs to every tile that it reaches into, and stays one.

    Args:
        dataset: a split in the package's form, all of whose images can be cut (see `check_tiles`).
        tiling: how its images are cut.
        share: of an object's area, 0..1.
    """

    def __init__(self, dataset: "datasets.Dataset", tiling: Tiling, share: float = SHARE):
        self.dataset, self.share = dataset, share
        sizes = zip(dataset["height"], dataset["width"], strict=True)
        self.places = [(index, tile) for index, size in enumerate(sizes) for tile in tiling.tiles(*size)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int | str) -> Any:
        """A row with its part of the image and of the objects, or the column image_id, width or height."""
        if isinstance(index, str):
            columns = {
                "image_id": range(len(self)),
                "height": [tile.shape[0] for _, tile in self.places],
                "width": [tile.shape[1] for _, tile in self.places],
            }
            return columns[index]
        number, tile = self.places[index]
        row = cast("Mapping[str, Any]", self.dataset[number])
        height, width = tile.shape
        return {
            **row,
            "image_id": index,
            "image": row_image(row).crop(tile),
            "width": width,
            "height": height,
            "objects": objects_in(row["objects"], tile, self.share),
        }


def objects_in(objects: Mapping[str, Sequence[Any]], tile: Tile, share: float) -> dict[str, list[Any]]:
    """The objects that belong to a tile, in its pixels; area shrinks as the box does.

    Example:
        >>> objects = {"bbox": [[0, 0, 20, 10], [90, 0, 20, 10]], "iscrowd": [0, 0], "area": [150, 150]}
        >>> objects_in(objects, Tile(10, 0, 100, 50), share=0.5)
        {'bbox': [[0.0, 0.0, 10.0, 10.0], [80.0, 0.0, 10.0, 10.0]], 'iscrowd': [0, 0], 'area': [75.0, 75.0]}
    """
    boxes = np.asarray(objects["bbox"], dtype=np.float64).reshape(-1, 4)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    corner, end = np.array(tile[:2]), np.array(tile[2:])
    inside_low, inside_high = np.maximum(low, corner), np.minimum(high, end)
    sides = (inside_high - inside_low).clip(0)
    shares = sides.prod(1) / boxes[:, 2:].prod(1)
    centre = (low + high) / 2
    is_centred = ((centre >= corner) & (centre < end)).all(1)
    belongs = (shares > 0) & (is_centred | (shares >= share) | np.asarray(objects["iscrowd"], dtype=bool))
    kept = np.flatnonzero(belongs).tolist()
    cut = np.concatenate([inside_low - corner, sides], axis=1)
    return {
        **{name: [values[i] for i in kept] for name, values in objects.items()},
        "bbox": cut[kept].tolist(),
        "area": [float(objects["area"][i] * shares[i]) for i in kept],
    }


@dataclass(frozen=True)
class TileSummary:
    """What tiles make of a split.

    Args:
        images: as many as there are with all tiles.
        images_without_boxes: of them.
        boxes: in all of them; an object counts in each that it belongs to.
        boxes_in_no_tile: objects that belong to no tile; they are in the whole image alone.
    """

    images: int
    images_without_boxes: int
    boxes: int
    boxes_in_no_tile: int


def summarize_tiles(dataset: "datasets.Dataset", tiling: Tiling, share: float = SHARE) -> TileSummary:
    """Counts a split in tiles; no image is read."""
    counts: Counter[str] = Counter()
    columns = dataset.select_columns(["height", "width", "objects"])
    for row in cast("Iterable[Mapping[str, Any]]", columns):
        objects = {**row["objects"], "index": range(len(row["objects"]["bbox"]))}
        size, seen = (row["height"], row["width"]), set()
        for tile in tiling.tiles(*size):
            belong = objects_in(objects, tile, share)["index"]
            counts.update(images=1, images_without_boxes=not belong, boxes=len(belong))
            seen |= set() if tile.shape == size and tiling.cuts(*size) else set(belong)
        counts["boxes_in_no_tile"] += len(objects["index"]) - len(seen)
    return TileSummary(**{name: counts[name] for name in TileSummary.__annotations__})


__all__ = ["TileSummary", "TiledRows", "check_tiles", "objects_in", "summarize_tiles"]
