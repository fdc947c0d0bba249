"""A data set in tiles: every object is where its pixels are, and none is lost."""

import numpy as np
import pytest
from PIL import Image
from support.data_sets import coco_content

from deformable_detr_refine.data.examples import Examples
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.inspection.inspection import inspect
from deformable_detr_refine.data.row_image import row_image
from deformable_detr_refine.data.tiled_rows import TiledRows, check_tiles, summarize_tiles
from deformable_detr_refine.inference.tiles import Tiling
from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor

BOXES = [(0, 5, 5, 20, 20), (1, 90, 60, 30, 30), (2, 199, 10, 40, 60), (0, 0, 0, 300, 200)]


@pytest.fixture
def data(tmp_path):
    """One image of 300x200 in which each object has its own colour, and one that is no larger than a tile."""
    import json

    pixels = np.zeros((200, 300, 3), dtype=np.uint8)
    for number, (_, x, y, width, height) in reversed(list(enumerate(BOXES))):
        pixels[y : y + height, x : x + width] = number + 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.new("RGB", (60, 90)).save(tmp_path / "b.png")
    content = coco_content([("a.png", (300, 200), BOXES), ("b.png", (60, 90), [])])
    content["annotations"][3]["iscrowd"] = 1
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return load_detection_data(tmp_path / "annotations.json")


def test_objects_lie_where_their_pixels_are(data):
    (dataset,) = data.splits.values()
    rows = TiledRows(dataset, Tiling(size=100, overlap=0.4))
    assert rows["width"][0] == 300 and set(rows["width"][1:-1]) == {100} and rows["height"][-1] == 90
    assert rows["image_id"][-1] == len(rows) - 1
    seen = set()
    for row in rows:
        pixels = np.asarray(row_image(row))[..., 0]
        assert pixels.shape == (row["height"], row["width"])
        objects = row["objects"]
        for (x, y, width, height), number, area, crowd in zip(
            objects["bbox"], objects["id"], objects["area"], objects["iscrowd"], strict=True
        ):
            if not crowd:
                inside = pixels[round(y) : round(y + height), round(x) : round(x + width)]
                assert (inside == number).all() and inside.size == round(area)
            seen.add(number)
    assert seen == {1, 2, 3, 4}


def test_an_object_belongs_to_a_tile_by_its_centre_or_its_share(data):
    (dataset,) = data.splits.values()

    def numbers(share):
        rows = TiledRows(dataset.select([0]), Tiling((2, 1), overlap=0, whole=False), share)
        return [row["objects"]["id"] for row in rows]

    # The third lies from 199 to 239, the cut at 150; the crowd reaches into both.
    assert numbers(1.0) == numbers(0.5) == [[1, 2, 4], [3, 4]]
    halves = TiledRows(dataset.select([0]), Tiling((3, 1), overlap=0, whole=False), 0.0)
    # 1 of its 40 pixels in the second third; 10 of the second object's 30 in the first.
    assert [row["objects"]["id"] for row in halves] == [[1, 2, 4], [2, 3, 4], [3, 4]]
    assert [row["objects"]["iscrowd"][-1] for row in halves] == [1, 1, 1]


def test_examples_of_tiles_are_ready_for_the_model(data):
    (dataset,) = data.splits.values()
    processor = DeformableDetrRefineImageProcessor(size={"shortest_edge": 64, "longest_edge": 100})
    examples = Examples(TiledRows(dataset, Tiling((2, 2))), processor)
    for index in range(len(examples)):
        example = examples[(0, index)]
        boxes = example["labels"]["boxes"]
        assert ((boxes >= 0) & (boxes <= 1)).all() and min(example["pixel_values"].shape[1:]) >= 60


def test_what_tiles_make_of_a_set_is_counted(data):
    (dataset,) = data.splits.values()
    tiling = Tiling(size=100, overlap=0.4)
    summary, rows = summarize_tiles(dataset, tiling), list(TiledRows(dataset, tiling))
    assert summary.images == len(rows)
    assert summary.boxes == sum(len(row["objects"]["id"]) for row in rows)
    assert summary.images_without_boxes == sum(not row["objects"]["id"] for row in rows)
    assert summary.boxes_in_no_tile == 0
    # The crowd reaches into every tile; what is larger than all of them has less than its share in each.
    large = dataset.select([0]).map(lambda row: {"objects": {**row["objects"], "iscrowd": [0] * 4}})
    fine = Tiling((6, 4), overlap=0.1)
    assert summarize_tiles(large, fine, share=1.0).boxes_in_no_tile == 0  # its centre lies in one
    (name,) = data.splits
    inspection = inspect(data, tiling=tiling)
    assert inspection.to_dict()["tiles"][name]["images"] == len(rows)
    assert f"with their tiles {len(rows)} images" in str(inspection)


def test_images_that_cannot_be_cut_are_told(data):
    (dataset,) = data.splits.values()
    processor = DeformableDetrRefineImageProcessor(size={"shortest_edge": 64, "longest_edge": 100})
    check_tiles(dataset, Tiling(size=100), processor.resized_shape)
    with pytest.raises(ValueError, match="no smaller than the largest image, 300x200"):
        check_tiles(dataset, Tiling(size=300), processor.resized_shape)
    with pytest.raises(ValueError, match=r"b\.png: A grid of 1x4 is too fine for an image of 60x90"):
        check_tiles(dataset, Tiling((1, 4)), processor.resized_shape)

    def refuses(height, width):
        raise ValueError("too thin")

    with pytest.raises(ValueError, match=r"\.png: too thin"):
        check_tiles(dataset, Tiling(size=100), refuses)
