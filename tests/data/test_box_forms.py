"""Boxes that are not what their file calls them: corners for sizes, centres, parts for pixels, in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.data_sets import write_image, write_json, write_voc_set

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.box_form import FORMS, as_xywh, box_form
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.inspection.inspection import inspect

SIZE = (200, 100)
COUNT = 60


def true_boxes(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """(count, 4) x, y, width, height in pixels, all over the image up to its edges."""
    random = np.random.default_rng(seed)
    extent = random.integers((20, 10), (100, 50), (count, 2))
    return np.concatenate([random.integers(0, SIZE - extent + 1), extent], axis=1).astype(float)


def as_form(boxes: np.ndarray, form: str, parts: bool = False) -> list[list[float]]:
    first, extent = boxes[:, :2], boxes[:, 2:]
    found = {"xywh": (first, extent), "xyxy": (first, first + extent), "cxcywh": (first + extent / 2, extent)}[form]
    return (np.concatenate(found, axis=1) / ((*SIZE, *SIZE) if parts else 1)).tolist()


def write_coco(folder: Path, boxes: list[list[float]], areas: list[float] | None = None) -> Path:
    write_image(folder / "1.jpg", SIZE)
    annotations = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes, 1)]
    for annotation, area in zip(annotations, areas or [], strict=False):
        annotation["area"] = area
    images = [{"id": 1, "file_name": "1.jpg", "width": SIZE[0], "height": SIZE[1]}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "can"}]}
    return write_json(folder / "a.json", content)


def write_voc(folder: Path, boxes: list[list[float]]) -> Path:
    write_voc_set(folder, {"1": [("can", *box) for box in boxes]})
    write_image(folder / "JPEGImages" / "1.jpg", SIZE)
    file = folder / "Annotations" / "1.xml"
    file.write_text(
        file.read_text().replace("<width>40</width><height>30</height>", "<width>200</width><height>100</height>")
    )
    return folder


def write_yolo(folder: Path, boxes: list[list[float]]) -> Path:
    write_image(folder / "images" / "1.jpg", SIZE)
    (folder / "labels").mkdir()
    (folder / "labels" / "1.txt").write_text("".join(f"0 {' '.join(map(repr, box))}\n" for box in boxes))
    (folder / "data.yaml").write_text("train: images\nnames: [can]\n")
    return folder


def write_azure(folder: Path, boxes: list[list[float]]) -> Path:
    write_image(folder / "1.jpg", SIZE)
    corners = ("topX", "topY", "bottomX", "bottomY")
    labels = [{"label": "can", **dict(zip(corners, box, strict=True))} for box in boxes]
    item = {"image_url": "1.jpg", "image_details": {"width": SIZE[0], "height": SIZE[1]}, "label": labels}
    (folder / "train.jsonl").write_text(json.dumps(item) + "\n")
    return folder


# Of each format: how it is written, its own form, and whether that is in parts of the image.
FORMATS = {
    "coco": (write_coco, "xywh", False),
    "voc": (write_voc, "xyxy", False),
    "yolo": (write_yolo, "cxcywh", True),
    "azure": (write_azure, "xyxy", True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_every_form_and_tells_of_another_one(name, form, tmp_path):
    write, own, parts = FORMATS[name]
    data = load_detection_data(write(tmp_path, as_form(true_boxes(), form, parts)))
    assert data["train"][0]["objects"]["bbox"] == pytest.approx(true_boxes(), abs=1e-4)
    told = [(defect.kind, defect.loses) for defect in data.defects]
    assert told == ([] if form == own else [("box form", "")])
    if form != own:
        assert f"the boxes are taken for {FORMS[form]}: as {FORMS[own]} they cannot be meant" in data.defects[0].text
    assert inspect(data).sound == (form == own)


@pytest.mark.parametrize("name", FORMATS)
def test_another_unit_is_refused_at_once(name, tmp_path):
    write, own, parts = FORMATS[name]
    source = write(tmp_path, as_form(true_boxes(), own, not parts))
    for defects in ("error", "skip"):
        with pytest.raises(DataError, match="parts of the image") as caught:
            load_detection_data(source, defects=defects)
        assert FORMS[own] in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_few_boxes_are_told_of_and_a_split_that_is_sure_decides_for_them(tmp_path):
    few = as_form(np.array([[120, 60, 30, 30], [150, 10, 40, 20]]), "xyxy")
    (tmp_path / "few").mkdir()
    data = load_detection_data(write_coco(tmp_path / "few", few), defects="skip")
    assert (
        data.defects[0].kind == "box form"
        and "but as corners x0, y0, x1, y1 they would all lie" in data.defects[0].text
    )
    assert not inspect(data).sound
    for split, boxes in (("train", as_form(true_boxes(), "xyxy")), ("valid", few)):
        write_coco(tmp_path / "both" / split, boxes).rename(tmp_path / "both" / split / "_annotations.coco.json")
    data = load_detection_data(tmp_path / "both")
    assert data["validation"][0]["objects"]["bbox"] == [[120, 60, 30, 30], [150, 10, 40, 20]]
    assert [defect.kind for defect in data.defects] == ["box form"] * 2


def test_areas_tell_corners_of_coco_too(tmp_path):
    boxes = np.array([[1, 2, 3, 4], [2, 1, 5, 3]], float)
    data = load_detection_data(write_coco(tmp_path, as_form(boxes, "xyxy"), [12, 15]))
    assert data["train"][0]["objects"]["bbox"] == boxes.tolist()


@pytest.mark.parametrize("stated", FORMS)
def test_true_boxes_with_some_defects_keep_their_form(stated):
    """A tenth over the edge, swapped, or without area make no other form."""
    boxes = true_boxes(200)
    boxes[:10, 2] = 200
    boxes[10:15, 3] = 0
    sizes = np.array([SIZE] * 200)
    assert box_form(np.array(as_form(boxes, stated)), sizes, stated=stated) == stated
    assert as_xywh(np.array(as_form(boxes, stated)), stated) == pytest.approx(boxes)
