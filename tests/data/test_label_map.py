"""One label map for the whole data set, made from the data, and kept with the model."""

import pytest
from support.data_sets import SPLITS, write_coco_set, write_voc_set

from deformable_detr_refine import DeformableDetrRefineConfig
from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.label_map import LabelMap, merge, read_label_map, write_label_map


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        ((), (), "There is no class name"),
        (("a", " "), (), "Class number 1 has an empty name"),
        (("a", "b", "a"), (), "The class name 'a' stands twice"),
        (("a", "b"), (3, 3), "The category id '3' stands twice"),
        (range(100_001), (), "100,001 classes are named, the most are 100,000"),
        (("a", "b"), (3,), "1 category ids do not go with 2 class names"),
    ],
)
def test_what_is_no_label_map_is_refused(names, ids, message):
    with pytest.raises(DataError, match=message):
        LabelMap(names, ids)


@pytest.mark.parametrize("ids", [None, [1, 90, 7]])
def test_it_travels_in_the_config_of_a_model(ids, tmp_path):
    label_map = LabelMap(("a", "b", "c"), ids or (0, 1, 2))
    DeformableDetrRefineConfig(id2label=label_map.id2label, category_ids=ids).save_pretrained(tmp_path)
    assert LabelMap.from_config(DeformableDetrRefineConfig.from_pretrained(tmp_path)) == label_map


def test_a_config_with_gaps_is_refused():
    config = DeformableDetrRefineConfig()
    config.id2label = {0: "a", 2: "b"}
    with pytest.raises(DataError, match="expected 0 to 1"):
        LabelMap.from_config(config)


def test_a_file_of_it_gives_it_back(tmp_path):
    label_map = LabelMap(("a", "ä b"), (5, -3))
    write_label_map(label_map, tmp_path / "labels.json")
    assert read_label_map(tmp_path / "labels.json") == label_map
    for text in ("[]", "{", '{"names": ["a"]}', '{"names": 3, "category_ids": [1]}'):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(DataError, match="is no label map"):
            read_label_map(tmp_path / "labels.json")


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (LabelMap(("a",), (1,)), LabelMap(("b",), (1,)), "Category 1 is 'b' in validation and 'a' in another split"),
        (LabelMap(("a",), (1,)), LabelMap(("a",), (2,)), "'a' is category 2 in validation and 1 in another split"),
    ],
)
def test_splits_that_disagree_are_refused(one, other, message):
    with pytest.raises(DataError, match=message):
        merge({"train": one, "validation": other}, ())


def test_it_is_the_same_whatever_the_order_of_splits():
    one, other = LabelMap(("a", "c"), (1, 3)), LabelMap(("b",), (2,))
    assert (
        merge({"x": one, "y": other}, ()) == merge({"x": other, "y": one}, ()) == LabelMap(("a", "b", "c"), (1, 2, 3))
    )


def test_one_label_map_where_a_coco_split_lacks_a_class(tmp_path):
    write_coco_set(tmp_path / "whole")
    whole = load_detection_data(tmp_path / "whole")
    write_coco_set(tmp_path / "less")
    val = {"validation": SPLITS["validation"]}
    file = write_coco_set(tmp_path / "val", val) / "annotations" / "instances_val2017.json"
    text = file.read_text().replace('{"id": 4, "name": "carton"},\n', "")
    (tmp_path / "less" / "annotations" / "instances_val2017.json").write_text(text)
    less = load_detection_data(tmp_path / "less")
    assert "carton" not in text
    assert less.label_map == whole.label_map
    for split in whole.splits:
        assert less[split].features == whole[split].features
        assert less[split]["objects"][:] == whole[split]["objects"][:]


def test_one_label_map_where_a_voc_split_lacks_a_class(tmp_path):
    write_voc_set(tmp_path, {"1": [("pear", 1, 1, 9, 9)], "2": [("apple", 1, 1, 9, 9)], "3": [("pear", 2, 2, 9, 9)]})
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("1\n3\n")
    (lists / "val.txt").write_text("2\n")
    data = load_detection_data(tmp_path)
    assert data.label_map == LabelMap(("apple", "pear"))
    assert [objects["category"] for objects in data["train"]["objects"]] == [[1], [1]]
    assert [objects["category"] for objects in data["validation"]["objects"]] == [[0]]
    # Of one split alone the labels are the same.
    alone = load_detection_data(tmp_path, split="train")
    assert alone.label_map == data.label_map and list(alone.splits) == ["train"]


def test_a_models_label_map_decides(tmp_path):
    write_coco_set(tmp_path)
    model = LabelMap(("milk bottle", "can", "jar"), (3, 2, 1))
    data = load_detection_data(tmp_path, label_map=model)
    assert data.label_map == model
    assert data["train"][0]["objects"]["category"] == [1, 0]
    assert data["train"].features["objects"]["category"].feature.names == list(model.names)
    with pytest.raises(DataError, match="the label 'milk bottle' is none of the data set's classes"):
        load_detection_data(tmp_path, label_map=LabelMap(("can",)))
    skipped = load_detection_data(tmp_path, label_map=LabelMap(("can",)), defects="skip")
    assert [defect.kind for defect in skipped.defects] == ["unknown label"] * 3
    assert [len(objects["id"]) for objects in skipped["train"]["objects"]] == [1, 0, 0]


def test_an_unknown_split_is_named(tmp_path):
    write_coco_set(tmp_path)
    assert list(load_detection_data(tmp_path, split="val").splits) == ["validation"]
    with pytest.raises(DataError, match="has no split 'test', but train, validation"):
        load_detection_data(tmp_path, split="test")
    with pytest.raises(DataError, match="has no split 'test'"):
        load_detection_data(tmp_path)["test"]
