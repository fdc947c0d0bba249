"""Images in tiles: every object is found once, whole, where it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms

from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.row_image import row_image
from deformable_detr_refine.evaluation.class_names import RelabelledData
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
from deformable_detr_refine.evaluation.predict import predict
from deformable_detr_refine.inference.detector import DetectionFailure, Detector
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.tiles import Tile, Tiling, detect_in_tiles, merge_tiles

SAMPLES = Path(__file__).parents[2] / "samples"
TILINGS = [Tiling((3, 2)), Tiling((1, 4), overlap=0.5), Tiling(size=64), Tiling(size=90, overlap=0.4)]


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize("size", [(100, 150), (333, 470), (512, 91)])
def test_tiles_are_alike_cover_the_image_and_overlap(tiling, size):
    whole, *tiles = tiling.tiles(*size)
    assert whole == (0, 0, size[1], size[0]) and len({tile.shape for tile in tiles}) == 1
    covered = np.zeros(size, dtype=bool)
    for tile in tiles:
        assert 0 <= tile.left < tile.right <= size[1] and 0 <= tile.top < tile.bottom <= size[0]
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
    assert covered.all()
    if tiling.size:
        assert tiles[0].shape == (min(size[0], tiling.size), min(size[1], tiling.size))
    # Whatever fits into the overlap is whole in some tile.
    height, width = (int(tiling.overlap * side) - 1 for side in tiles[0].shape)
    for x, y in np.random.default_rng(0).integers(0, (size[1] - width, size[0] - height), (200, 2)).tolist():
        assert any(
            tile.left <= x and x + width <= tile.right and tile.top <= y and y + height <= tile.bottom for tile in tiles
        )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "one of the two"),
        ({"grid": (2, 2), "size": 64}, "one of the two"),
        ({"grid": (1, 1)}, "cuts nothing"),
        ({"grid": (0, 2)}, "cuts nothing"),
        ({"grid": (100_000, 100_000)}, "more than 256 tiles in a row"),
        ({"size": 8}, "too small"),
        ({"size": 64, "overlap": 1.0}, "0 to 0.9"),
        ({"size": 64, "overlap": float("nan")}, "0 to 0.9"),
        ({"size": 64, "nms_threshold": -0.1}, "0 to 1"),
    ],
)
def test_what_makes_no_tiles_is_told(wrong, told):
    with pytest.raises(ValueError, match=told):
        Tiling(**wrong)


def test_a_grid_too_fine_is_told_and_an_image_smaller_than_a_tile_is_whole():
    with pytest.raises(ValueError, match="40x2 is too fine for an image of 300x200"):
        Tiling((40, 2)).tiles(200, 300)
    assert Tiling(size=640).tiles(480, 640) == [(0, 0, 640, 480)]


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_every_object_comes_out_once(tiling):
    """Of a detector that finds in each picture exactly what lies in it, cut where the picture ends."""
    height, width = 400, 600
    chance = np.random.default_rng(1)
    # Objects of all sizes that do not overlap: one in each cell of a lattice, and a large one across the rest.
    corners = np.array([(x, y) for x in range(0, 400, 50) for y in range(0, 400, 50)], dtype=float)
    small = np.concatenate([corners + 3, corners + chance.uniform(8, 47, corners.shape)], axis=1)
    truth = np.concatenate([small, [[410.0, 20.0, 595.0, 390.0]]]).astype(np.float32)
    numbers = np.arange(len(truth))
    # Each object is a colour of its own, so that a picture of any part can be read without knowing where it lies.
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    for number, (left, top, right, bottom) in zip(numbers, truth.round().astype(int), strict=True):
        canvas[top:bottom, left:right] = number + 1
    seen = []

    def detect(pictures):
        seen.append(len(pictures))
        return [found_in(np.asarray(picture)[..., 0]) for picture in pictures]

    def found_in(picture):
        boxes = []
        for value in np.unique(picture[picture > 0]):
            rows, columns = np.nonzero(picture == value)
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, value - 1))
        found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
        # The larger part is the surer.
        return {"boxes": found[:, :4], "labels": found[:, 4].long() % 3, "scores": (found[:, 2] - found[:, 0]) / 1000}

    image = Image.fromarray(canvas)
    found = detect_in_tiles(image, tiling, detect, lambda height, width: (height, width), batch_size=3)
    order = np.lexsort(truth.round().T)
    boxes = found["boxes"]
    assert np.array_equal(boxes[np.lexsort(boxes.T)], truth.round()[order])
    assert max(seen) <= 3 and sum(seen) == len(tiling.tiles(height, width))
    assert (np.diff(found["scores"]) <= 0).all()


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [0, 1, 40, 700])
def test_the_best_of_each_object_are_torchvisions(count, threshold):
    chance = np.random.default_rng(count)
    corners = chance.uniform(0, 150, (count, 2))
    sides = chance.choice([0, 2, 30, 120], (count, 2)) * chance.uniform(0.9, 1.1, (count, 2))  # some have no area
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    boxes[1::7] = boxes[: len(boxes[1::7])]  # and some are there twice
    scores, labels = chance.permutation(count).astype(np.float32), chance.integers(0, 3, count)
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), threshold).numpy()
    assert threshold == 1 or count < 40 or 0 < len(expected) < count
    every = {"boxes": boxes, "scores": scores, "labels": labels}
    tile = Tile(0, 0, 300, 300)
    parts = [(tile, {name: values[first::2] for name, values in every.items()}) for first in (0, 1)]
    tiling = Tiling((2, 1), whole=False, nms_threshold=threshold)
    found = merge_tiles(parts, tile.shape, tiling)
    assert all(np.array_equal(found[name], values[expected]) for name, values in every.items())


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_what_is_cut_by_every_tile_is_found_in_the_whole_image(batch_size):
    """Also where that is looked at last, since no tile has its shape."""
    canvas = np.zeros((900, 1600), dtype=np.uint8)
    canvas[200:310, 665:935] = 1  # wider than the overlap of two tiles, over the cut

    def detect(pictures):
        found = []
        for picture in pictures:
            rows, columns = np.nonzero(np.asarray(picture))
            boxes = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
            boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            found.append({"boxes": boxes, "scores": boxes[:, 0] * 0 + 0.5, "labels": boxes[:, 0].long() * 0})
        return found

    image = Image.fromarray(canvas)
    found = detect_in_tiles(image, Tiling((2, 2)), detect, lambda height, width: (height, width), batch_size)
    assert found["boxes"].tolist() == [[665, 200, 935, 310]]


@pytest.fixture(scope="module")
def photos():
    data = load_detection_data(SAMPLES / "annotations" / "blood_cells.json")
    (dataset,) = data.splits.values()
    names = load_detector(SAMPLES / "blood-cells", "cpu")[0].config.id2label.values()
    return [{**row, "image": row_image(row)} for row in RelabelledData(dataset, data.label_map.names, list(names))]


def beside_each_other(rows):
    """Four rows as one, of a picture of two by two."""
    width, height = rows[0]["width"], rows[0]["height"]
    canvas, objects = Image.new("RGB", (2 * width, 2 * height)), {}
    for place, row in enumerate(rows):
        x, y = place % 2 * width, place // 2 * height
        canvas.paste(row["image"], (x, y))
        moved = [[left + x, top + y, *sides] for left, top, *sides in row["objects"]["bbox"]]
        for name, values in (row["objects"] | {"bbox": moved}).items():
            objects.setdefault(name, []).extend(values)
    sizes = {"width": canvas.width, "height": canvas.height}
    return {"image_id": 1, "file_name": "four.png", "image": canvas, "objects": objects, **sizes}


def test_four_photos_beside_each_other_are_detected_as_well_as_each_alone(photos):
    model, processor = load_detector(SAMPLES / "blood-cells", "cpu")
    names = [model.config.id2label[label] for label in range(3)]
    four = [*photos, photos[0]]

    def ap50(rows, tiling=None):
        return coco_metrics(list(predict(model, processor, rows, batch_size=2, tiling=tiling)), names)["AP50"]

    alone = ap50([{**row, "image_id": number} for number, row in enumerate(four)])
    together, tiled = ap50([beside_each_other(four)]), ap50([beside_each_other(four)], Tiling((2, 2)))
    assert tiled > alone - 0.03, (alone, tiled)
    assert together < tiled - 0.1, (together, tiled)


def test_a_detector_in_tiles_takes_what_one_without_takes(photos):
    whole = Detector(SAMPLES / "blood-cells", "cpu")
    tiled = Detector(SAMPLES / "blood-cells", "cpu", batch_size=3, tiling=Tiling(size=400))
    small = photos[0]["image"].crop((0, 0, 300, 300))
    sources = [photos[0]["image"], b"no image", small]
    cut, failed, uncut = tiled.detect(sources, threshold=0.3)
    assert isinstance(failed, DetectionFailure) and cut.image_size == (480, 640)
    assert uncut == whole.detect([small], threshold=0.3)[0]
    assert tiled.detect(sources[:1], threshold=0.3, top_k=2)[0].boxes.tolist() == cut[:2].boxes.tolist()
    too_fine = Detector(SAMPLES / "blood-cells", "cpu", tiling=Tiling((50, 50)))
    (told,) = too_fine.detect(sources[:1])
    assert "too fine for an image of 640x480" in told.error and told.image_size == (480, 640)
