"""Pascal VOC: the layouts that people have, and files that are broken or hostile."""

from pathlib import Path

import pytest
from support.data_sets import kinds, voc_text, write_image, write_voc_set

from deformable_detr_refine.data.defects import AnnotationError, DataError
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.formats.voc import read_voc_file

FILES = {"10": [("can", 1, 2, 11, 22), ("jar", 0.5, 1, 40, 30)], "9": [], "100": [("can", 3, 3, 9, 9)]}


def write_lists(folder: Path, **lists: str) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for name, text in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)


@pytest.mark.parametrize("prefix", ["", "VOCdevkit/VOC2012/"])
@pytest.mark.parametrize(
    ("annotations", "images"), [("Annotations", "JPEGImages"), ("annotations", "images"), ("", "")]
)
def test_layouts(prefix, annotations, images, tmp_path):
    write_voc_set(tmp_path / prefix, FILES, annotations, images)
    data = load_detection_data(tmp_path)
    assert (data.format, data.label_map.names, list(data.splits)) == ("voc", ("can", "jar"), ["train"])
    rows = data["train"]
    assert rows["file_name"][:] == ["9.jpg", "10.jpg", "100.jpg"]  # by number, not by letter
    assert rows["image_id"][:] == [0, 1, 2]
    assert [objects["bbox"] for objects in rows["objects"]] == [
        [],
        [[1, 2, 10, 20], [0.5, 1, 39.5, 29]],
        [[3, 3, 6, 6]],
    ]
    assert rows[1]["objects"]["area"] == [200, 39.5 * 29]
    assert rows[1]["objects"]["category"] == [0, 1]


def test_folders_of_splits(tmp_path):
    write_voc_set(tmp_path / "train", {"1": FILES["10"]}, "", "")
    write_voc_set(tmp_path / "valid", {"2": [], "3": FILES["100"]}, "", "")
    data = load_detection_data(tmp_path)
    assert {name: rows["file_name"][:] for name, rows in data.splits.items()} == {
        "train": ["1.jpg"],
        "validation": ["2.jpg", "3.jpg"],
    }


def test_lists_of_image_sets(tmp_path):
    write_voc_set(tmp_path, {**FILES, "my photo": []})
    write_lists(
        tmp_path, train="100\n10\n", val="my photo\n\n", trainval="100\n10\nmy photo\n", can_train="100 1\n10 -1\n"
    )
    data = load_detection_data(tmp_path)
    assert {name: rows["file_name"][:] for name, rows in data.splits.items()} == {
        "train": ["100.jpg", "10.jpg"],
        "validation": ["my photo.jpg"],
    }
    assert data.defects == ()


def test_trainval_alone_is_train(tmp_path):
    write_voc_set(tmp_path, FILES)
    write_lists(tmp_path, trainval="100\n")
    assert load_detection_data(tmp_path)["train"]["file_name"][:] == ["100.jpg"]


def test_an_image_listed_without_annotation(tmp_path):
    write_voc_set(tmp_path, FILES)
    write_lists(tmp_path, train="100\n\n11\n9\n")
    (defect,) = load_detection_data(tmp_path, defects="skip").defects
    assert (defect.kind, defect.loses, defect.image) == ("unreadable annotation", "image", "11")
    assert str(defect) == f"{tmp_path}/ImageSets/Main/train.txt:3: the image 11 is listed, but has no annotation"


def test_label_file_gives_order_and_knows_more(tmp_path):
    write_voc_set(tmp_path, FILES)
    (tmp_path / "labels.txt").write_text("jar\nbox\ncan\n")
    data = load_detection_data(tmp_path)
    assert data.label_map.names == ("jar", "box", "can")
    assert data["train"][1]["objects"]["category"] == [2, 0]
    (tmp_path / "labels.txt").write_text("jar\n")
    assert kinds(tmp_path) == ["unknown label"] * 2


def test_the_image_named_like_the_annotation_is_taken(tmp_path):
    write_voc_set(tmp_path, {"1": [("can", 1, 1, 9, 9)]})
    (tmp_path / "Annotations" / "2.xml").write_text(voc_text([], file_name="1.jpg"))
    write_image(tmp_path / "JPEGImages" / "2.jpg", (40, 30))
    (tmp_path / "Annotations" / "3.xml").write_text(voc_text([], file_name="other name.jpg"))
    write_image(tmp_path / "JPEGImages" / "other name.jpg", (40, 30))
    data = load_detection_data(tmp_path)
    assert data["train"]["file_name"][:] == ["1.jpg", "2.jpg", "other name.jpg"]
    (defect,) = data.defects
    assert (defect.kind, defect.loses) == ("other file name", "")


def test_sizes_that_are_not_stated_are_those_of_the_upright_image(tmp_path):
    write_voc_set(tmp_path, {"1": [("can", 0, 0, 30, 40)]})
    file = tmp_path / "Annotations" / "1.xml"
    write_image(tmp_path / "JPEGImages" / "1.jpg", (40, 30), orientation=8)
    for size in ("<size><width>0</width><height>x</height></size>", ""):
        text = voc_text([("can", 0, 0, 30, 40)])
        file.write_text(text.replace("<size><width>40</width><height>30</height></size>", size))
        row = load_detection_data(tmp_path)["train"][0]
        assert (row["width"], row["height"]) == (30, 40)


def test_parts_of_an_object_are_not_its_box(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    write_voc_set(tmp_path, {"1": [("man", 5, 6, 25, 26)]})
    file = tmp_path / "Annotations" / "1.xml"
    file.write_text(file.read_text().replace("</object>", f"{part}</object>"))
    data = load_detection_data(tmp_path)
    assert (data.label_map.names, data["train"][0]["objects"]["bbox"]) == (("man",), [[5, 6, 20, 20]])


# Objects stand from line 3 on.
DEFECTS = {
    "no area": ([("can", 6, 20, 36, 20)], [("no area", 3, "no area (x 6, y 20, width 30, height 0)")]),
    "swapped": ([("a", 1, 1, 5, 5), ("can", 9, 20, 5, 25)], [("swapped corners", 4, "can ends before it begins")]),
    "outside": ([("can", 41, 5, 45, 9)], [("outside the image", 3, "outside its 40x30 image")]),
    "over the edge": ([("can", -1, 5, 45, 9)], [("partly outside", 3, "over the edge of its 40x30 image")]),
    "no number": ([("can", 1, "two", 5, 9)], [("unreadable annotation", 3, "corner that is no number")]),
    "infinite": ([("can", 1, "-inf", 5, 9)], [("not finite", 3, "finite")]),
    "empty": ([("can", 1, "", 5, 9)], [("unreadable annotation", 3, "corner that is no number")]),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_have_file_and_line(defect, tmp_path):
    objects, expected = DEFECTS[defect]
    write_voc_set(tmp_path, {"1": [("can", 1, 1, 9, 9)], "2": objects})
    found = load_detection_data(tmp_path, defects="skip").defects
    where = tmp_path / "Annotations" / "2.xml"
    assert [(item.kind, item.where) for item in found] == [(kind, f"{where}:{line}") for kind, line, _ in expected]
    assert [item.image for item in found] == ["2.jpg"] * len(found)
    for item, (_, _, text) in zip(found, expected, strict=True):
        assert text in item.text
    if any(item.loses for item in found):
        with pytest.raises(DataError, match=rf"2.xml:{expected[0][1]}: "):
            load_detection_data(tmp_path)


def test_an_object_without_corner_or_name(tmp_path):
    write_voc_set(tmp_path, {"1": [("can", 1, 1, 9, 9)], "2": [("can", 1, 1, 9, 9), ("", 1, 1, 9, 9)]})
    file = tmp_path / "Annotations" / "1.xml"
    file.write_text(file.read_text().replace("<ymax>9</ymax>", ""))
    first, second = load_detection_data(tmp_path, defects="skip").defects
    assert "1.xml:3: the object can has no ymax" in str(first)
    assert "2.xml:4: the object has no name" in str(second)


def test_an_absent_image(tmp_path):
    write_voc_set(tmp_path, FILES)
    (tmp_path / "JPEGImages" / "9.jpg").unlink()
    (defect,) = load_detection_data(tmp_path, defects="skip").defects
    assert (defect.kind, defect.loses) == ("absent image", "image")
    assert defect.where == f"{tmp_path / 'Annotations' / '9.xml'}:1"


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd"])
def test_images_outside_the_folder_are_not_opened(name, tmp_path):
    write_voc_set(tmp_path, FILES)
    (tmp_path / "JPEGImages" / "9.jpg").unlink()
    (tmp_path / "Annotations" / "9.xml").write_text(voc_text([], file_name=name))
    (defect,) = load_detection_data(tmp_path, defects="skip").defects
    assert (defect.kind, defect.loses) == ("outside the folder", "image")


BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE annotation [\n<!ENTITY a "aaaaaaaaaa">\n<!ENTITY b "&a;&a;&a;&a;">\n]>\n'
    "<annotation><filename>&b;</filename></annotation>"
)
BROKEN = {
    BOMB: (2, "a DTD in an annotation is refused"),
    '<!DOCTYPE annotation SYSTEM "file:///etc/passwd">\n<annotation/>': (1, "a DTD in an annotation is refused"),
    "<annotation>\n<object>\n</annotation>": (3, "this is not valid XML: mismatched tag"),
    "<annotation>\n<size>": (2, "this is not valid XML"),
    "<annotation>\n\n&lt;&made_up;</annotation>": (3, "this is not valid XML: undefined entity"),
    "<annotation>\0</annotation>": (1, "this is not valid XML"),
}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_and_hostile_files(text, tmp_path):
    line, message = BROKEN[text]
    write_voc_set(tmp_path, FILES)
    file = tmp_path / "Annotations" / "9.xml"
    (tmp_path / "Annotations" / "10.xml").rename(tmp_path / "Annotations" / "1.xml")  # the first tells the format
    (tmp_path / "JPEGImages" / "10.jpg").rename(tmp_path / "JPEGImages" / "1.jpg")
    file.write_text(text)
    with pytest.raises(AnnotationError, match=f"9.xml:{line}: {message}"):
        read_voc_file(file)
    (defect,) = load_detection_data(tmp_path, defects="skip").defects
    assert (defect.kind, defect.where, defect.loses) == ("unreadable annotation", f"{file}:{line}", "image")


def test_a_namespace_of_tags_deep_inside_costs_nothing(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>" + "<x>" * 100_000 + "</x>" * 100_000 + "</annotation>")
    assert read_voc_file(tmp_path / "a.xml").objects == []
