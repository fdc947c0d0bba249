"""Every form of data set comes back as it was written, up to the precision that the form has."""

import json
import warnings

import datasets
import pytest
from support.data_sets import SPLITS, kinds, same_rows, write_coco_set

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.detection_data import DetectionData, features, split_every
from deformable_detr_refine.data.formats.azure_jsonl import write_azure
from deformable_detr_refine.data.formats.coco import write_coco
from deformable_detr_refine.data.formats.hub import write_datasets
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.formats.voc import write_voc
from deformable_detr_refine.data.formats.yolo import write_yolo
from deformable_detr_refine.data.label_map import LabelMap

# Writer, pixels that a box may move, and what the form has no place for.
NO_IDS = ("image_id", "id")
FORMS = {
    "coco": (write_coco, 0, ()),
    "datasets": (write_datasets, 0, ()),
    "voc": (write_voc, 0, NO_IDS),
    "azure": (write_azure, 1e-6, NO_IDS),
    "yolo": (write_yolo, 1e-6, NO_IDS),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DetectionData:
    return load_detection_data(write_coco_set(tmp_path_factory.mktemp("coco")))


def test_the_canonical_form(data):
    assert data.format == "coco" and data.defects == ()
    assert data.label_map == LabelMap(("can", "carton", "milk bottle"), (1, 4, 44))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 3, "validation": 2}
    for split, images in SPLITS.items():
        assert data[split].features == features(data.label_map.names)
        for number, (row, (name, size, boxes)) in enumerate(zip(data[split], images, strict=True)):
            assert (row["image_id"], row["file_name"], (row["width"], row["height"])) == (number + 7, name, size)
            assert row["image"]["bytes"] is None and row["image"]["path"].endswith(name)
            objects = row["objects"]
            assert objects["category"] == [label for label, *_ in boxes]
            assert objects["iscrowd"] == [0] * len(boxes)
            for bbox, area, (_, *given) in zip(objects["bbox"], objects["area"], boxes, strict=True):
                assert bbox == pytest.approx(given, rel=1e-6)
                assert area == pytest.approx(given[2] * given[3], rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", FORMS)
def test_written_is_read(data, form, first, tmp_path):
    """Canonical -> `first` -> canonical -> `form` -> canonical: nothing changes but what one of them cannot hold."""
    again, absolute, without = data, 0, set()
    for name in (first, form):
        write, tolerance, missing = FORMS[name]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write(again, folder)
        again = load_detection_data(folder)
        assert (again.format, again.defects) == (name, ())
        absolute, without = absolute + tolerance, without | set(missing)
    assert list(again.splits) == list(data.splits)
    assert again.label_map.names == data.label_map.names
    if not without:
        assert again.label_map == data.label_map
    for split in data.splits:
        same_rows(again[split], data[split], absolute, tuple(without))


@pytest.mark.parametrize("form", FORMS)
def test_one_split_of_a_name_of_its_own(data, form, tmp_path):
    one = DetectionData(datasets.DatasetDict(fold_1=data["train"]), data.label_map, "", "coco")
    write, tolerance, without = FORMS[form]
    if form == "yolo":
        with pytest.raises(DataError, match="YOLO's form has no split 'fold_1'"):
            write(one, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        return
    write(one, tmp_path / "new")
    again = load_detection_data(tmp_path / "new")
    assert len(again.splits) == 1
    same_rows(next(iter(again.splits.values())), data["train"], tolerance, without)


@pytest.mark.parametrize("form", FORMS)
def test_crowds_and_areas(data, form, tmp_path):
    rows = data["train"].to_list()
    rows[0]["objects"] |= {"iscrowd": [1, 0], "area": [7.5, 8.25]}
    changed = datasets.Dataset.from_list(rows, features=data["train"].features)
    changed = DetectionData(datasets.DatasetDict(train=changed), data.label_map, "", "coco")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        FORMS[form][0](changed, tmp_path / "new")
    objects = load_detection_data(tmp_path / "new")["train"][0]["objects"]
    if form == "yolo":
        assert len(objects["id"]) == 1
        assert "1 crowds are left out" in str(warned[0].message)
    else:
        assert objects["iscrowd"] == [1, 0]
        assert (objects["area"] == [7.5, 8.25]) == (form in ("coco", "datasets"))


@pytest.mark.parametrize("form", ["azure", "yolo"])
def test_boxes_over_the_edge_are_cut_where_the_form_needs_it(data, form, tmp_path):
    rows = data["train"].to_list()
    rows[2]["objects"]["bbox"] = [[-4, 10, 100, 20]]
    changed = datasets.Dataset.from_list(rows, features=data["train"].features)
    changed = DetectionData(datasets.DatasetDict(train=changed), data.label_map, "", "coco")
    FORMS[form][0](changed, tmp_path / "new")
    assert load_detection_data(tmp_path / "new")["train"][2]["objects"]["bbox"] == [[0, 10, 64, 20]]
    assert kinds(tmp_path / "new") == []


@pytest.mark.parametrize("form", FORMS)
def test_images_in_memory_are_written(data, form, tmp_path):
    write_datasets(data, tmp_path / "saved")
    saved = load_detection_data(tmp_path / "saved")
    assert saved["train"][0]["image"]["bytes"] is not None
    write, tolerance, without = FORMS[form]
    write(saved, tmp_path / "new")
    same_rows(load_detection_data(tmp_path / "new")["train"], data["train"], tolerance, without)


@pytest.mark.parametrize("form", ["coco", "voc", "azure", "yolo"])
def test_names_out_of_a_data_set_stay_in_the_folder(data, form, tmp_path):
    rows = data["train"].to_list()
    for row, name in zip(rows, ["../../../x.jpg", "/y/x.jpg", "x"], strict=True):
        row["file_name"] = name
    rows.append({**rows[0], "image_id": 70, "file_name": "x.png"})
    changed = datasets.Dataset.from_list(rows, features=data["train"].features)
    changed = DetectionData(datasets.DatasetDict(train=changed), data.label_map, "", "coco")
    FORMS[form][0](changed, tmp_path / "deep" / "er" / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == {"new"}
    again = load_detection_data(tmp_path / "deep" / "er" / "new")
    assert len(set(again["train"]["file_name"][:])) == 4
    labels = [[objects["category"] for objects in rows["train"]["objects"]] for rows in (again, changed)]
    assert sorted(labels[0]) == sorted(labels[1]) if form == "yolo" else labels[0] == labels[1]


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_with_something_in_it_is_kept(data, form, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        FORMS[form][0](data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("form", ["coco", "voc", "azure", "yolo"])
def test_a_missing_image_leaves_nothing_half_written(data, form, tmp_path):
    rows = data["train"].to_list()
    rows[2]["image"] = {"bytes": None, "path": str(tmp_path / "absent.jpg")}
    changed = datasets.Dataset.from_list(rows, features=data["train"].features)
    changed = DetectionData(datasets.DatasetDict(train=changed), data.label_map, "", "coco")
    with pytest.raises(DataError, match=r"absent.jpg cannot be copied"):
        FORMS[form][0](changed, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_images_behind_urls_stay_there(tmp_path):
    line = {
        "image_url": "https://example.org/a.jpg?size=2",
        "image_details": {"format": "jpg", "width": 40, "height": 30},
        "label": [{"label": "can", "topX": 0.25, "topY": 0.5, "bottomX": 0.75, "bottomY": 1}],
    }
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    data = load_detection_data(tmp_path)
    assert data["train"][0]["image"]["path"] == line["image_url"]
    assert data["train"][0]["objects"]["bbox"] == [[10, 15, 20, 15]]
    write_azure(data, tmp_path / "new")
    again = load_detection_data(tmp_path / "new")
    assert again["train"][0] == data["train"][0]
    with pytest.raises(DataError, match="only Azure's form keeps such images"):
        write_coco(data, tmp_path / "coco")


@pytest.mark.parametrize("count", [2, 5, 6, 11])
def test_every_nth_image_validates(count):
    rows = datasets.Dataset.from_dict({"image_id": list(range(count))})
    split = split_every(rows, 5)
    assert split["validation"]["image_id"][:] == [number for number in range(count) if number % 5 == 0]
    assert split["train"]["image_id"][:] == [number for number in range(count) if number % 5]


@pytest.mark.parametrize(("count", "n"), [(1, 5), (10, 1)])
def test_what_cannot_be_split_is_refused(count, n):
    with pytest.raises(DataError, match="cannot be split"):
        split_every(datasets.Dataset.from_dict({"image_id": list(range(count))}), n)


def test_classes_begin_at_one_in_coco_unless_they_are_from_there(data, tmp_path):
    """Others' readers of COCO take 0 for no class."""
    own = load_detection_data(write_coco_set(tmp_path / "own", ids=(0, 3, 5)))
    write_yolo(data, tmp_path / "yolo")
    for number, (source, ids) in enumerate([(own, [0, 3, 5]), (load_detection_data(tmp_path / "yolo"), [1, 2, 3])]):
        write_coco(source, tmp_path / str(number))
        content = json.loads((tmp_path / str(number) / "annotations" / "instances_train.json").read_text())
        assert [category["id"] for category in content["categories"]] == ids
        again = load_detection_data(tmp_path / str(number))
        assert again.label_map.names == data.label_map.names
        for row, other in zip(again["train"], data["train"], strict=True):
            assert row["objects"]["category"] == other["objects"]["category"]
