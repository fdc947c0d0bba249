"""Data sets of the `datasets` library, in the forms that the Hub's detection sets have."""

import json

import datasets
import huggingface_hub
import numpy as np
import pytest
from support.data_sets import image_bytes, write_image

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.detection_data import features
from deformable_detr_refine.data.formats.box_form import box_form
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.inference.load_model import load_model

SIZE = (40, 30)
BOXES = [[[1, 2, 10, 20], [5.5, 6, 30, 20]], [], [[0, 0, 40, 30]]]
LABELS = [[0, 2], [], [2]]
NAMES = ["can", "carton", "jar"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def hub_set(bbox=BOXES, category=LABELS, kind=None, names=("bbox", "category"), **more) -> datasets.Dataset:
    """As the Hub's usual sets: image, and objects with lists of boxes and categories."""
    kind = kind or datasets.ClassLabel(names=NAMES)
    objects = [dict(zip(names, pair, strict=True)) for pair in zip(bbox, category, strict=True)]
    feature = {names[0]: datasets.List(datasets.List(datasets.Value("float64"))), names[1]: datasets.List(kind)}
    columns = {"image": datasets.Image(), "objects": feature}
    content = {"image": [{"bytes": image_bytes(SIZE), "path": None}] * len(bbox), "objects": objects, **more}
    for name, values in more.items():
        columns[name] = datasets.Value("int64" if isinstance(values[0], int) else "string")
    return datasets.Dataset.from_dict(content, features=datasets.Features(columns))


def check(data, label_names=NAMES, labels=LABELS) -> None:
    rows = next(iter(data.splits.values()))
    assert rows.features == features(label_names)
    assert [objects["bbox"] for objects in rows["objects"]] == BOXES
    assert [objects["category"] for objects in rows["objects"]] == labels
    assert {(row["width"], row["height"]) for row in rows} == {SIZE}
    assert rows[0]["image"]["bytes"] == image_bytes(SIZE)


def test_the_usual_form():
    data = load_detection_data(hub_set())
    assert (data.format, list(data.splits), data.label_map.category_ids) == ("datasets", ["train"], (0, 1, 2))
    check(data)


@pytest.mark.parametrize("names", [("bbox", "category_id"), ("bboxes", "label"), ("boxes", "labels")], ids=str)
def test_other_names(names):
    check(load_detection_data(hub_set(names=names)))


def test_categories_that_are_texts():
    texts = [["jar", "can"], [], ["can"]]
    data = load_detection_data(hub_set(category=texts, kind=datasets.Value("string")))
    check(data, ["can", "jar"], [[1, 0], [], [0]])


def test_categories_that_are_numbers_without_names():
    data = load_detection_data(hub_set(category=[[90, 7], [], [7]], kind=datasets.Value("int64")))
    check(data, ["7", "90"], [[1, 0], [], [0]])
    assert data.label_map.category_ids == (7, 90)


def test_a_list_of_objects():
    feature = [{"bbox": datasets.List(datasets.Value("float32")), "category": datasets.ClassLabel(names=NAMES)}]
    columns = datasets.Features({"image": datasets.Image(), "objects": datasets.List(feature[0])})
    objects = [
        [{"bbox": box, "category": label} for box, label in zip(*pair, strict=True)]
        for pair in zip(BOXES, LABELS, strict=True)
    ]
    content = {"image": [{"bytes": image_bytes(SIZE), "path": None}] * 3, "objects": objects}
    check(load_detection_data(datasets.Dataset.from_dict(content, features=columns)))


def test_own_ids_names_and_sizes_are_kept():
    data = load_detection_data(hub_set(image_id=[7, 5, 3], file_name=["a", "b", "c"], width=[40] * 3, height=[30] * 3))
    check(data)
    assert (data["train"]["image_id"][:], data["train"]["file_name"][:]) == ([7, 5, 3], ["a", "b", "c"])


def test_splits_and_their_selections():
    rows = hub_set()
    data = load_detection_data(datasets.DatasetDict(val=rows.select([2, 0]), train=rows))
    assert list(data.splits) == ["train", "validation"]
    assert [objects["category"] for objects in data["validation"]["objects"]] == [[2], [0, 2]]
    again = load_detection_data(data.splits)
    assert [again[split][:] for split in again.splits] == [data[split][:] for split in data.splits]


@pytest.mark.parametrize("form", ["one file", "a folder", "data/", "folders of splits"])
def test_parquet(form, tmp_path):
    train, validation = hub_set(), hub_set().select([0])
    if form == "one file":
        train.to_parquet(tmp_path / "mine.parquet")
        check(load_detection_data(tmp_path / "mine.parquet"))
        return
    name = "{}/0000.parquet" if form == "folders of splits" else "{}-00000-of-00001.parquet"
    for split, rows in (("train", train), ("val", validation)):
        path = tmp_path / ("data" if form == "data/" else "") / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path)
    data = load_detection_data(tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 3, "validation": 1}
    check(data)


def test_a_saved_folder(tmp_path):
    hub_set().save_to_disk(tmp_path / "one")
    check(load_detection_data(tmp_path / "one"))
    datasets.DatasetDict(train=hub_set()).save_to_disk(tmp_path / "more")
    check(load_detection_data(tmp_path / "more"))


def test_a_folder_of_images_with_metadata(tmp_path):
    for number, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
        write_image(tmp_path / "train" / f"{number}.jpg", SIZE)
        entry = {"file_name": f"{number}.jpg", "objects": {"bbox": boxes, "categories": [NAMES[x] for x in labels]}}
        with (tmp_path / "train" / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
    data = load_detection_data(tmp_path)
    rows = data["train"]
    assert rows["file_name"][:] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [objects["bbox"] for objects in rows["objects"]] == BOXES
    assert data.label_map.names == ("can", "jar")
    assert rows[0]["image"]["path"] == str(tmp_path / "train" / "0.jpg")


CORNERS = [[[x, 5, x + 10, 25] for x in range(20, 30)], [], [[30, 10, 40, 30]]]


def test_corners_are_told_only_when_they_must_be():
    labels = [[0] * 10, [], [2]]
    data = load_detection_data(hub_set(CORNERS, labels))
    assert data["train"][0]["objects"]["bbox"][0] == [20, 5, 10, 20]
    assert data["train"][2]["objects"]["bbox"] == [[30, 10, 10, 20]]
    (note,) = data.defects
    assert (note.kind, note.loses) == ("box form", "") and "taken for corners" in note.text


def test_few_boxes_that_could_be_corners_are_noted():
    data = load_detection_data(hub_set([[[20, 5, 30, 25]], [], []], [[0], [], []]))
    assert data["train"][0]["objects"]["bbox"] == [[20, 5, 30, 25]]
    assert [(note.kind, note.loses) for note in data.defects] == [("box form", ""), ("partly outside", "")]


def test_areas_tell_corners_too():
    boxes, sizes = np.array([[1, 1, 5, 5], [2, 2, 9, 4.0]]), np.array([[40, 30]] * 2)
    assert box_form(boxes, sizes) == "xywh"
    assert box_form(boxes, sizes, np.array([16.0, 14.0])) == "xyxy"
    assert box_form(boxes, sizes, np.array([25.0, 36.0])) == "xywh"
    assert box_form(boxes, sizes, np.array([7.0, 3.0])) == "xywh"  # of segments


@pytest.mark.parametrize("seed", range(5))
def test_the_form_of_random_boxes_is_told(seed):
    """Of both forms, with a box in five hundred that has no area."""
    chance = np.random.default_rng(seed)
    sizes = chance.integers(20, 900, (1000, 2))
    corners = np.sort(chance.uniform(0, 1, (1000, 2, 2)), axis=1).reshape(-1, 4) * np.tile(sizes, 2)
    corners[::500, 2] = corners[::500, 0]
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    assert (box_form(corners, sizes), box_form(xywh, sizes)) == ("xyxy", "xywh")


def test_parts_of_the_image_are_refused():
    with pytest.raises(DataError, match=r"all boxes lie in 0\.\.1"):
        load_detection_data(hub_set([[[0.1, 0.2, 0.5, 0.5]], [], []], [[0], [], []]))


# What objects hold, and the defects: kind, row, text.
DEFECTS = {
    "no area": ([[[1, 2, 0, 5]], [], BOXES[2]], [[0], [], [2]], "no area", 0, "can has no area"),
    "three numbers": ([BOXES[0], [], [[1, 2, 3]]], LABELS, "unreadable annotation", 2, "[1.0, 2.0, 3.0] are not four"),
    "no number": ([BOXES[0], [], [[1, None, 3, 4]]], LABELS, "unreadable annotation", 2, "not four numbers"),
    "no category": (BOXES, [[0, 2], [], [None]], "unknown label", 2, "'None' is none"),
    "one category too few": (
        BOXES,
        [[0], [], [2]],
        "unreadable annotation",
        0,
        "2 boxes do not go with 1 entries of category",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_have_split_and_row(defect):
    boxes, labels, kind, row, text = DEFECTS[defect]
    (found,) = load_detection_data(hub_set(boxes, labels), defects="skip").defects
    assert (found.kind, found.where) == (kind, f"the data set/train:{row}")
    assert text in found.text
    with pytest.raises(DataError, match=f"the data set/train:{row}: "):
        load_detection_data(hub_set(boxes, labels))


def test_images_that_are_none_or_not_there(tmp_path):
    rows = hub_set(image_id=[3, 4, 5]).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[0]["image"] = {"bytes": b"a text", "path": None}
    rows[1]["image"] = {"bytes": None, "path": str(tmp_path / "absent.jpg")}
    changed = datasets.Dataset.from_list(rows, features=hub_set(image_id=[3, 4, 5]).features)
    data = load_detection_data(changed, defects="skip")
    assert [(defect.kind, defect.where) for defect in data.defects] == [
        ("unreadable image", "the data set/train:0"),
        ("absent image", "the data set/train:1"),
    ]
    assert (data["train"]["image_id"][:], data["train"][0]["objects"]["category"]) == ([5], [2])


def test_a_folder_does_not_reach_outside_itself(tmp_path):
    outside = write_image(tmp_path / "secret.jpg", SIZE)
    rows = hub_set().cast_column("image", datasets.Image(decode=False)).to_list()
    rows[1]["image"] = {"bytes": None, "path": str(outside)}
    changed = datasets.Dataset.from_list(rows, features=hub_set().features)
    changed.cast_column("image", datasets.Image(decode=False)).to_parquet(tmp_path / "set" / "train.parquet")
    (defect,) = load_detection_data(tmp_path / "set", defects="skip").defects
    assert (defect.kind, defect.loses) == ("outside the folder", "image")
    assert load_detection_data(changed).defects == ()  # the user's own object


def test_another_form_is_refused_by_name():
    for columns in ({"image": [1]}, {"text": ["a"], "objects": [{}]}, {"image": [1], "label": [0]}):
        with pytest.raises(DataError, match=r"has no column '(image|objects)', but (image|text)"):
            load_detection_data(datasets.Dataset.from_dict(columns))
    for other in (5, [1], {"train": 3}):
        with pytest.raises(DataError, match="A data set is a path, hub:OWNER/NAME, a Dataset or a DatasetDict, not"):
            load_detection_data(other)


@pytest.mark.parametrize("name", ["hub:someone/cats", "someone/cats@main"])
def test_without_network_a_hub_name_says_both(name, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=f"There is no path {name}; as a data set of the Hub it is not in the cache"):
        load_detection_data(name)


def test_a_hub_without_an_address_is_not_asked(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    asked = []
    monkeypatch.setattr("deformable_detr_refine.hub_names.getproxies", lambda: {"no": "localhost"})
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", lambda *a, **k: asked.append(a))
    with pytest.raises(DataError, match="the Hub cannot be reached"):
        load_detection_data("runs/none")
    with pytest.raises(FileNotFoundError, match="There is no model folder runs/none; as a model of the Hub"):
        load_model("runs/none")
    assert not asked and not datasets.config.HF_HUB_OFFLINE


def test_no_such_path():
    with pytest.raises(FileNotFoundError, match="There is no data set absent/folder/of/data"):
        load_detection_data("absent/folder/of/data")


@pytest.mark.parametrize("content", ["damaged", ""])
def test_a_damaged_parquet(content, tmp_path):
    (tmp_path / "train.parquet").write_text(content)
    with pytest.raises(DataError, match="does not open as a data set of `datasets`"):
        load_detection_data(tmp_path)


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="defects is 'ignore', expected"):
        load_detection_data(hub_set(), defects="ignore")
