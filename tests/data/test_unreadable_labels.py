"""Labels that cannot be read, or whose image is absent: told, never an image without objects, never passed over."""

import json
from pathlib import Path

import datasets
import pytest
from support.data_sets import image_bytes, voc_text, write_image, write_json, write_voc_set

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.inspection.inspection import inspect

SIZE = (100, 100)
BOX = "0 .5 .5 .4 .4"


def yolo_set(folder: Path, labels: dict[str, str | bytes], more: str = "") -> Path:
    for stem, text in labels.items():
        write_image(folder / "images" / f"{stem}.jpg", SIZE)
        file = folder / "labels" / f"{stem}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "data.yaml").write_text(f"train: images\nnames: [can, jar]\n{more}")
    return folder


def boxes_of(folder: Path) -> list[list[float]]:
    return [box for objects in load_detection_data(folder)["train"]["objects"] for box in objects["bbox"]]


def seen(source, **settings) -> tuple[list[str], list[str]]:
    """Images that are left with defects="skip", and all defects."""
    data = load_detection_data(source, defects="skip", **settings)
    return data["train"]["file_name"][:], [str(defect).removeprefix(f"{source}/") for defect in data.defects]


@pytest.mark.parametrize("line", [f"{BOX} .9 .9", f"{BOX} .45 .45 0 0 .5 .5", f"{BOX} .9 .9 2 .1 .1 1"])
def test_key_points_of_yolo_are_passed_over(line, tmp_path):
    count, per_point = {7: (1, 2), 11: (3, 2)}.get(len(line.split()), (2, 3))
    folder = yolo_set(tmp_path, {"1": f"{line}\n{BOX}\n"}, f"kpt_shape: [{count}, {per_point}]\n")
    assert boxes_of(folder) == [[30, 30, 40, 40]] * 2
    (folder / "labels" / "2.txt").write_text(f"{BOX} .1 .1 .1 .1 .1\n")
    write_image(folder / "images" / "2.jpg", SIZE)
    images, defects = seen(folder)
    assert images == ["1.jpg"] and defects == [
        f"labels/2.txt:1: the line has 10 numbers; with data.yaml's kpt_shape it has 5 (class cx cy w h) and "
        f"{count * per_point} of key points"
    ]


def test_polygons_and_turned_boxes_of_yolo_are_read(tmp_path):
    """Triangles at the edge too, where other lines are polygons without doubt."""
    turned, triangle = "0 .2 .3 .6 .3 .6 .7 .2 .7", "0 .1 .1 .5 .1 .3 1"
    assert boxes_of(yolo_set(tmp_path, {"1": f"{turned}\n{triangle}"})) == [[20, 30, 40, 40], [10, 10, 40, 90]]


# A line, and what is said of it; none of them is a polygon.
NO_BOX = {
    f"{BOX} .9 7": "is no polygon: not all of them are parts of the image",
    f"{BOX} .9 1": "looks like class, box, confidence and track id",
    f"{BOX} .9": "a sixth is an angle or a confidence",
    f"{BOX} .4 .4 2": "key points need kpt_shape",
    f"{BOX} .4 .4 2 .5 .5 2 .6 .6 2 .6 .4 2": "is no polygon",
    "0 nan .1 .2 .2 .3 .3": "is no polygon",
}


@pytest.mark.parametrize("line", NO_BOX)
def test_a_line_of_yolo_that_is_no_box_and_no_polygon_is_a_defect(line, tmp_path):
    images, defects = seen(yolo_set(tmp_path, {"1": f"\n{line}\n", "2": BOX}))
    assert images == ["2.jpg"]
    assert len(defects) == 1 and defects[0].startswith("labels/1.txt:2: ") and NO_BOX[line] in defects[0]
    with pytest.raises(DataError, match="1 image would be lost"):
        load_detection_data(tmp_path)


def test_a_whole_set_of_key_points_without_kpt_shape_is_refused(tmp_path):
    line = f"{BOX} .4 .4 .5 .5 .6 .6 0 0"
    _, defects = seen(yolo_set(tmp_path, {"1": f"{line}\n" * 10, "2": BOX}))
    assert len(defects) == 10 and all("data.yaml needs kpt_shape" in text for text in defects)
    with pytest.raises(DataError, match=r"kpt_shape is 'x', expected \[number of key points, 2 or 3\]"):
        load_detection_data(yolo_set(tmp_path, {"1": line}, "kpt_shape: x\n"))


def test_labels_of_yolo_without_their_image(tmp_path):
    folder = yolo_set(tmp_path, {"1": BOX, "2": BOX, "deeper": BOX, "empty": ""})
    for name in ("2.jpg", "deeper.jpg", "empty.jpg"):
        (folder / "images" / name).unlink()
    (folder / "labels" / "more").mkdir()
    (folder / "labels" / "deeper.txt").rename(folder / "labels" / "more" / "3.txt")
    (folder / "labels" / "classes.txt").write_text("can\njar\n")
    (folder / "labels" / "._4.txt").write_text(BOX)
    images, defects = seen(folder)
    assert images == ["1.jpg"]
    assert sorted(text.partition(" in ")[0] for text in defects) == [
        f"labels/{name}.txt: there is no image of these labels" for name in ("2", "empty", "more/3")
    ]
    assert not inspect(load_detection_data(folder, defects="skip")).sound
    (folder / "train.txt").write_text("images/1.jpg\n")
    (folder / "data.yaml").write_text("train: train.txt\nval: train.txt\nnames: [can, jar]\n")
    assert len(load_detection_data(folder, defects="skip").defects) == 2  # of the folder of the listed image, once


def test_files_of_labels_that_cannot_be_read(tmp_path):
    folder = yolo_set(tmp_path, {"1": BOX, "2": "0 .5 é".encode("latin-1"), "3": "", "4": BOX})
    (folder / "labels" / "3.txt").unlink()
    (folder / "labels" / "3.txt").mkdir()
    (folder / "labels" / "4.txt").unlink()
    (folder / "labels" / "4.txt").symlink_to("nowhere")
    images, defects = seen(folder)
    assert images == ["1.jpg"]
    assert [text.split(":")[0] for text in defects] == [f"labels/{n}.txt" for n in (2, 3, 4)]
    assert "not a text of UTF-8" in defects[0] and "Is a directory" in defects[1] and "No such file" in defects[2]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no file without an end here")
def test_files_without_an_end_are_not_read(tmp_path, monkeypatch):
    """As an image, and as the labels of one."""
    monkeypatch.setenv("DDETR_FOLLOW_LINKS", "1")
    folder = yolo_set(tmp_path / "yolo", {"1": BOX, "2": BOX, "3": BOX})
    for place in ("images/1.jpg", "labels/2.txt"):
        (folder / place).unlink()
        (folder / place).symlink_to("/dev/zero")
    images, defects = seen(folder)
    assert images == ["3.jpg"]
    assert all(any(f"{name} is no file" in text for text in defects) for name in ("1.jpg", "2.txt"))


def test_an_image_keeps_what_can_be_read(tmp_path):
    images, defects = seen(yolo_set(tmp_path, {"1": f"{BOX}\nnonsense\n", "2": "nonsense\n", "3": ""}))
    assert images == ["1.jpg", "3.jpg"] and len(defects) == 2
    objects = [
        {"id": 1, "image_id": n, "category_id": 1.0, "bbox": box} for n, box in ((1, [1, 2, 3]), (2, [1, 2, 3, 4]))
    ]
    listed = [{"id": float(n), "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in (1, 2, 3)]
    content = {"images": listed, "annotations": objects, "categories": [{"id": 1, "name": "can"}]}
    images, defects = seen(write_json(tmp_path / "images" / "a.json", content))
    assert images == ["2.jpg", "3.jpg"] and "no usable bbox" in defects[0] and len(defects) == 1


@pytest.mark.parametrize("encoding", ["ansi", "unicode", "mbcs", "gb2312", "shift_jis", "made up", "utf-7"])
def test_encodings_that_xml_cannot_have(encoding, tmp_path):
    write_voc_set(tmp_path, {"1": [("can", 1, 1, 9, 9)], "2": [("can", 1, 1, 9, 9)]})
    file = tmp_path / "Annotations" / "2.xml"
    file.write_text(f'<?xml version="1.0" encoding="{encoding}"?>\n{file.read_text()}')
    images, defects = seen(tmp_path)
    assert images == ["1.jpg"] and len(defects) == 1
    assert defects[0].startswith("Annotations/2.xml:1: ")
    assert "save it as UTF-8" in defects[0] or "not valid XML" in defects[0]


def test_xml_of_another_kind_among_pascal_voc(tmp_path):
    write_voc_set(tmp_path, {"1": [("can", 1, 1, 9, 9)], "2": [], "3": [("can", 1, 1, 9, 9)]})
    (tmp_path / "Annotations" / "2.xml").write_text("<annotations><image name='2.jpg'/></annotations>")
    turned = voc_text([("can", 1, 1, 9, 9)]).replace("bndbox", "robndbox")
    (tmp_path / "Annotations" / "3.xml").write_text(turned)
    images, defects = seen(tmp_path)
    assert images == ["1.jpg"]
    assert "2.xml:1: the document is <annotations>, not Pascal VOC's <annotation>" in defects[0]
    assert "3.xml:3: the object can is a rotated box (robndbox), no bndbox" in defects[1]


def rows(objects: list) -> datasets.Dataset:
    """One image a row, each of 40x30, with these objects."""
    images = [{"bytes": image_bytes((40, 30)), "path": f"{number}.png"} for number in range(len(objects))]
    return datasets.Dataset.from_dict({"image": images, "objects": objects})


GOOD = {"bbox": [[1, 2, 3, 4]], "category": [0], "area": [12.0], "iscrowd": [0], "id": [1]}


@pytest.mark.parametrize("name", GOOD)
def test_lists_of_unlike_lengths(name):
    bad = {**GOOD, name: GOOD[name] * 2}
    data = load_detection_data(rows([GOOD, bad]), defects="skip")
    (defect,) = data.defects
    assert (defect.where, defect.loses, len(data["train"])) == ("the data set/train:1", "image", 1)
    assert "do not go with" in defect.text


def test_objects_that_are_text():
    for objects in (json.dumps(GOOD), "no JSON"):
        with pytest.raises(DataError, match="no object can be read") as caught:
            load_detection_data(rows([objects]), defects="skip")
        assert "the data set/train:0: the objects are JSON text; parse it" in str(caught.value)


# What hides all objects of a set, and the defect that is shown instead of 'there is no class name' alone.
WITHOUT_CLASSES = {
    "broken": ("<annotation>\n<object>\n</annotation>", r"1.xml:3: this is not valid XML"),
    "DOCTYPE": ("<!DOCTYPE a>\n<annotation></annotation>", r"1.xml:1: a DTD in an annotation is refused"),
    "turned": (
        voc_text([("can", 1, 1, 9, 9)]).replace("bndbox", "robndbox"),
        "1.xml:3: the object can is a rotated box",
    ),
    "polygon": (voc_text([("can", 1, 1, 9, 9)]).replace("bndbox", "polygon"), "1.xml:3: the object can is a polygon"),
}


@pytest.mark.parametrize("kind", WITHOUT_CLASSES)
def test_where_no_class_is_named_the_first_defects_are_shown(kind, tmp_path):
    text, said = WITHOUT_CLASSES[kind]
    write_voc_set(tmp_path, {"1": []})
    (tmp_path / "Annotations" / "1.xml").write_text(text)
    for defects in ("error", "skip"):
        with pytest.raises(DataError, match=rf"(?s)there is no class name: no object can be read\..*{said}"):
            load_detection_data(tmp_path, defects=defects)


def test_categories_that_are_floats():
    data = load_detection_data(rows([{"bbox": [[1, 2, 3, 4]] * 2, "category": [3.0, 1.0]}]))
    assert data.label_map.category_ids == (1, 3) and data["train"][0]["objects"]["category"] == [1, 0]
    with pytest.raises(DataError, match=r"the categories are \[0.5\], neither whole numbers nor names"):
        load_detection_data(rows([{"bbox": [[1, 2, 3, 4]], "category": [0.5]}]))
