"""The COCO file of detections is one that readers of COCO files take, and holds just what was found."""

import json

import numpy as np
import pytest
from PIL import Image

from deformable_detr_refine.inference.coco_file import coco_file
from deformable_detr_refine.inference.detections import Detections
from deformable_detr_refine.inference.detector import DetectionFailure

NAMES = {0: "can", 1: "carton", 2: "milk_bottle"}


def random_detections(count, seed, size=(60, 80)) -> Detections:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0.05, 1, (count, 2, 2)) * [size[1], size[0]], axis=1)
    return Detections(corners.reshape(count, 4), random.uniform(size=count), np.arange(count) % 3, NAMES, size)


@pytest.fixture
def found():
    return {"a.png": random_detections(7, 0), "none.png": random_detections(0, 1), "b.png": random_detections(5, 2)}


def test_pycocotools_reads_what_was_found(found, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    (tmp_path / "found.json").write_text(json.dumps(coco_file(found)), encoding="utf-8")
    read = coco.COCO(str(tmp_path / "found.json"))
    names = {row["id"]: row["name"] for row in read.loadCats(read.getCatIds())}
    assert list(names) == [1, 2, 3]
    assert sorted(read.getAnnIds()) == list(range(1, 13))
    for image in read.loadImgs(read.getImgIds()):
        detections = found[image["file_name"]]
        rows = read.loadAnns(read.getAnnIds(imgIds=image["id"], iscrowd=False))
        assert (image["height"], image["width"]) == detections.image_size
        assert [names[row["category_id"]] for row in rows] == detections.names
        assert [row["score"] for row in rows] == pytest.approx(detections.scores)
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        assert boxes[:, :2] == pytest.approx(detections.boxes[:, :2])
        assert boxes[:, :2] + boxes[:, 2:] == pytest.approx(detections.boxes[:, 2:], abs=1e-4)
        assert [row["area"] for row in rows] == pytest.approx(boxes[:, 2] * boxes[:, 3])


def test_a_data_set_of_what_was_found_has_no_defect(found, tmp_path):
    load = pytest.importorskip("deformable_detr_refine.data.formats.load")
    for index, name in enumerate(found):
        Image.new("RGB", (80, 60), (index, 0, 0)).save(tmp_path / name)
    (tmp_path / "found.json").write_text(json.dumps(coco_file(found)), encoding="utf-8")
    data = load.load_detection_data(tmp_path)
    assert not data.defects
    assert data.label_map.names == tuple(NAMES.values())
    assert [len(row["objects"]["bbox"]) for row in data.splits["train"].remove_columns("image")] == [7, 0, 5]


def test_no_image_is_a_file_without_any():
    assert coco_file({}) == {"images": [], "annotations": [], "categories": []}


def test_an_image_that_could_not_be_read_is_told(found):
    with pytest.raises(ValueError, match=r"^c\.png has no detections: It is no image\.$"):
        coco_file({**found, "c.png": DetectionFailure("It is no image.")})


def test_other_classes_are_told(found):
    other = Detections([[0, 0, 1, 1]], [0.5], [0], {0: "cell"}, (60, 80))
    with pytest.raises(ValueError, match=r"c\.png have other classes"):
        coco_file({**found, "c.png": other})
