"""YOLO's text files: the layouts that people have, and files that are broken or hostile."""

from pathlib import Path

import pytest
import yaml
from support.data_sets import kinds, write_image

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.load import load_detection_data

SIZE = (40, 20)
LABELS = {"1": "0 0.5 0.5 0.5 0.5\n2 0.25 0.5 0.5 1\n", "2": None, "10": "\n"}


def write_yolo_set(folder: Path, images: str, labels: str, config: dict | str, files=LABELS) -> Path:
    for stem, text in files.items():
        write_image(folder / images / f"{stem}.jpg", SIZE)
        if text is not None:
            (folder / labels).mkdir(parents=True, exist_ok=True)
            (folder / labels / f"{stem}.txt").write_text(text)
    (folder / "data.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return folder


LAYOUTS = {
    "ultralytics": ("images/train", "labels/train", {"path": "../datasets/fruit", "train": "images/train"}),
    "Roboflow": ("train/images", "train/labels", {"train": "../train/images"}),
    "flat": ("images", "labels", {"path": ".", "train": "images"}),
    "of someone else's disk": ("images/train", "labels/train", {"path": "/content/fruit", "train": "images/train"}),
    "list of folders": ("images/train", "labels/train", {"train": ["images/train"]}),
    "labels beside": ("data", "data", {"train": "data"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("names", [["can", "jar", "box"], {0: "can", 1: "jar", 2: "box"}], ids=["list", "map"])
def test_layouts(layout, names, tmp_path):
    images, labels, config = LAYOUTS[layout]
    write_yolo_set(tmp_path, images, labels, {**config, "names": names, "nc": 3})
    for source in (tmp_path, tmp_path / "data.yaml"):
        data = load_detection_data(source)
        assert (data.format, data.label_map.names, data.defects) == ("yolo", ("can", "jar", "box"), ())
        rows = data["train"]
        assert rows["file_name"][:] == ["1.jpg", "2.jpg", "10.jpg"]
        assert [objects["bbox"] for objects in rows["objects"]] == [[[10, 5, 20, 10], [0, 0, 20, 20]], [], []]
        assert rows[0]["objects"]["category"] == [0, 2]
        assert {(row["width"], row["height"]) for row in rows} == {SIZE}


def test_lists_of_images(tmp_path):
    write_yolo_set(tmp_path, "images", "labels", {"train": "train.txt", "val": "val.txt", "names": ["a", "b", "c"]})
    (tmp_path / "train.txt").write_text("./images/10.jpg\n\nimages/1.jpg\n")
    (tmp_path / "val.txt").write_text(f"{tmp_path}/images/1.jpg\n")
    data = load_detection_data(tmp_path)
    assert data["train"]["file_name"][:] == ["images/10.jpg", "images/1.jpg"]
    assert len(data["validation"][0]["objects"]["id"]) == 2
    for line in ("images/7.jpg", "../../etc/passwd"):
        (tmp_path / "train.txt").write_text(f"images/1.jpg\n{line}\n")
        with pytest.raises(DataError, match=r"train.txt:2: the image"):
            load_detection_data(tmp_path)


def test_upright_sizes(tmp_path):
    write_yolo_set(tmp_path, "images", "labels", {"train": "images", "names": ["a"]}, {"1": "0 0.5 0.5 1 0.5"})
    write_image(tmp_path / "images" / "1.jpg", (40, 20), orientation=6)
    row = load_detection_data(tmp_path)["train"][0]
    assert (row["width"], row["height"], row["objects"]["bbox"]) == (20, 40, [[0, 10, 20, 20]])


def test_numbers_of_classes_with_gaps(tmp_path):
    config = {"train": "images", "names": {3: "a", 7: "b"}}
    write_yolo_set(tmp_path, "images", "labels", config, {"1": "7 0.5 0.5 1 1\n3 .5 .5 .1 .1"})
    data = load_detection_data(tmp_path)
    assert data.label_map.category_ids == (3, 7)
    assert data["train"][0]["objects"]["category"] == [1, 0]


def test_a_polygon_becomes_the_box_around_it(tmp_path):
    write_yolo_set(tmp_path, "images", "labels", {"train": "images", "names": ["a"]}, {"1": "0 .5 .25 .25 .5 .75 .75"})
    assert load_detection_data(tmp_path)["train"][0]["objects"]["bbox"] == [[10, 5, 20, 10]]


# Lines of 1.txt, and the defects: kind, line, text.
DEFECTS = {
    "0 .5 .5 .1 .1\n0 .5 .5 0 .1": [("no area", 2, "no area (x 20, y 9, width 0, height 2)")],
    "0 .5 .5 -.1 .1": [("swapped corners", 1, "ends before")],
    "0 1.5 .5 .1 .1": [("outside the image", 1, "outside its 40x20")],
    "0 1 .5 .5 .1": [("partly outside", 1, "over the edge")],
    "0 nan .5 .5 .1": [("not finite", 1, "finite")],
    "\n\n7 .5 .5 .1 .1": [("unknown label", 3, "the label '7'")],
    "-1 .5 .5 .1 .1": [("unknown label", 1, "the label '-1'")],
    "a .5 .5 .1 .1": [("unreadable annotation", 1, "not made of numbers: a .5 .5 .1 .1")],
    "0 .5 .5 .1": [("unreadable annotation", 1, "the line has 4 numbers")],
    "0 .5 .5 .1 .1 .9": [("unreadable annotation", 1, "the line has 6 numbers")],
    "0 .5,.5,.1,.1": [("unreadable annotation", 1, "not made of numbers")],
}


@pytest.mark.parametrize("text", DEFECTS)
def test_defects_have_file_and_line(text, tmp_path):
    write_yolo_set(tmp_path, "images", "labels", {"train": "images", "names": ["a", "b", "c"]}, {**LABELS, "3": text})
    found = load_detection_data(tmp_path, defects="skip").defects
    where = tmp_path / "labels" / "3.txt"
    assert [(item.kind, item.where) for item in found] == [(kind, f"{where}:{line}") for kind, line, _ in DEFECTS[text]]
    for item, (_, _, said) in zip(found, DEFECTS[text], strict=True):
        assert said in item.text
    if any(item.loses for item in found):
        with pytest.raises(DataError, match=r"3\.txt:"):
            load_detection_data(tmp_path)


def test_an_image_that_is_none(tmp_path):
    write_yolo_set(tmp_path, "images", "labels", {"train": "images", "names": ["a", "b", "c"]})
    (tmp_path / "images" / "2.jpg").write_text("a text")
    (defect,) = load_detection_data(tmp_path, defects="skip").defects
    assert (defect.kind, defect.loses, defect.image) == ("unreadable image", "image", "2.jpg")


BAD_CONFIGS = {
    "train: /etc\nnames: [a]": "images are read from below that folder alone",
    "train: ../../..\nnames: [a]": "images are read from below that folder alone",
    "train: absent\nnames: [a]": "images are read from below that folder alone",
    "train: empty\nnames: [a]": "there is no image in",
    "train: 3\nnames: [a]": "train is 3, not a folder",
    "train: images\nnames: a": "names is no list",
    "train: images\nnames: [[a]]": "the name of class 0 is \\['a'\\]; put it in quotes",
    "train: images\nnames: [yes, no]": "the name of class 0 is True; put it in quotes",
    "train: images\nnames: [a, a]": "The class name 'a' stands twice",
    "train: images\nnames: !!python/object/apply:os.system ['touch hacked']": "is no YAML",
    "train: [": "is no YAML",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True))
    + "train: images\nnames: *i": "its aliases make 9.26e\\+08 values of 401 characters",
}


@pytest.mark.parametrize("config", BAD_CONFIGS, ids=range(len(BAD_CONFIGS)))
def test_broken_and_hostile_configs(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_yolo_set(tmp_path / "set", "images", "labels", config)
    (tmp_path / "set" / "empty").mkdir()
    with pytest.raises(DataError, match=BAD_CONFIGS[config]):
        load_detection_data(tmp_path / "set")
    assert not (tmp_path / "hacked").exists()


def test_no_labels_at_all_is_no_data_set(tmp_path):
    write_yolo_set(tmp_path, "images", "labels", {"train": "images", "names": ["a"]}, {"1": None})
    with pytest.raises(DataError, match="no image of train has a file of labels"):
        load_detection_data(tmp_path)


def test_two_configs_are_not_guessed_between(tmp_path):
    write_yolo_set(tmp_path, "images", "labels", {"train": "images", "names": ["a", "b", "c"]})
    (tmp_path / "hyperparameters.yaml").write_text("lr: 3")
    assert kinds(tmp_path) == []
    (tmp_path / "other.yaml").write_text("train: images\nnames: [b]")
    with pytest.raises(DataError, match="both describe a data set"):
        load_detection_data(tmp_path)
