"""Forms of other tools are named as what they are, with what to export instead; none is taken for one that is read."""

import json

import pytest
from support.data_sets import write_image

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.load import load_detection_data

BOX = {"x": 1, "y": 2, "width": 3, "height": 4}
TASK = {"id": 1, "annotations": [{"result": [{"from_name": "label", "value": BOX}]}], "data": {"image": "/data/1.jpg"}}
NOTES = {"categories": [{"id": 0, "name": "can"}], "info": {"year": 2024, "contributor": "Label Studio"}}
CVAT = '<?xml version="1.0"?>\n<annotations><version>1.1</version><image id="0" name="1.jpg"></image></annotations>'
VIA = {"1.jpg123": {"filename": "1.jpg", "regions": [{"shape_attributes": {"name": "rect", **BOX}}]}}
FILES = {
    "tasks.json": (json.dumps([TASK]), "Label Studio's own JSON: export the project as COCO"),
    "min.json": (
        json.dumps([{"image": "/1.jpg", "label": [{**BOX, "rectanglelabels": ["can"]}]}]),
        "Label Studio's own",
    ),
    "notes.json": (json.dumps(NOTES, indent=2), "Label Studio's list of classes .* write a data.yaml"),
    "annotations.xml": (CVAT, "CVAT's own XML: export the task as COCO 1.0, Pascal VOC 1.1"),
    "1.json": (json.dumps({"version": "5", "shapes": [], "imagePath": "1.jpg"}), "LabelMe's JSON: .*labelme2coco.py"),
    "via.json": (json.dumps(VIA), "VGG Image Annotator's JSON: export the annotations in COCO's format"),
    "project.json": (json.dumps({"_via_settings": {}, "_via_img_metadata": VIA}), "VGG Image Annotator"),
    "create.json": (json.dumps([{"image": "1.jpg", "annotations": [{"label": "a", "coordinates": BOX}]}]), "CreateML"),
    "found.json": (json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]), "detections"),
    "obj.data": ("classes = 1\ntrain  = data/train.txt\nnames = data/obj.names\n", "darknet's list: write a data.yaml"),
    "boxes.csv": ("filename,xmin,ymin,xmax,ymax,class\n1.jpg,1,2,3,4,can\n", "a table in CSV"),
    "a.tfrecord": ("\0\1", "a TFRecord"),
    "1.txt": ("0 .5 .5 .1 .1\n", "YOLO's labels without their data.yaml"),
}


@pytest.mark.parametrize("place", ["labels", "."])  # in a folder of its own, or beside the one of the images
@pytest.mark.parametrize("name", FILES)
def test_a_form_that_is_not_read_is_named(name, place, tmp_path):
    content, said = FILES[name]
    (tmp_path / "set" / place).mkdir(parents=True)
    file = tmp_path / "set" / place / name
    file.write_text(content)
    write_image(tmp_path / "set" / "images" / "1.jpg", (40, 30))
    for source in (tmp_path / "set", file) if name != "1.txt" else (tmp_path / "set",):
        with pytest.raises(DataError, match=said):
            load_detection_data(source)


def test_what_is_not_known_is_said_to_be_that(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="is no data set of a known form"):
        load_detection_data(tmp_path)


def test_one_file_of_pascal_voc_asks_for_its_folder(tmp_path):
    (tmp_path / "1.xml").write_text("<annotation></annotation>")
    with pytest.raises(DataError, match=r"1.xml is one file of Pascal VOC: give its folder"):
        load_detection_data(tmp_path / "1.xml")


@pytest.mark.parametrize("content", [b"{bad", b"", b"[1, 2", b"\xff\xfe{", b"[" * 30_000])
def test_broken_json_is_named_as_such(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json is no valid JSON: "):
        load_detection_data(tmp_path / "a.json")
