"""COCO JSON: the layouts that people have, any ids, and files that are broken or hostile."""

import json
from pathlib import Path

import pytest
from support.data_sets import (
    IDS,
    NAMES,
    SPLITS,
    coco_content,
    kinds,
    same_rows,
    write_coco_set,
    write_image,
    write_json,
)

from deformable_detr_refine.data import write_coco, write_datasets
from deformable_detr_refine.data.defects import OUTSIDE_FOLDER as OUTSIDE
from deformable_detr_refine.data.defects import UNREADABLE_ANNOTATION as UNREADABLE
from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats import json_stream
from deformable_detr_refine.data.formats.coco import read
from deformable_detr_refine.data.formats.json_stream import stream_object
from deformable_detr_refine.data.formats.load import load_detection_data

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return load_detection_data(write_coco_set(tmp_path_factory.mktemp("coco")))


def one_set(folder: Path, change=lambda content: None, images=SPLITS["train"]) -> Path:
    """One COCO file `a.json` with its images in images/, after a change of its content."""
    content = coco_content(images)
    change(content)
    for name, size, _ in images:
        write_image(folder / "images" / name, size)
    write_json(folder / "a.json", content)
    return folder


LAYOUTS = {
    "COCO's": lambda split, token: (f"annotations/instances_{token}2017.json", f"{token}2017/"),
    "below images": lambda split, token: (f"annotations/instances_{token}.json", f"images/{token}/"),
    "Roboflow's": lambda split, token: (f"{split}/_annotations.coco.json", f"{split}/"),
    "json beside the folders": lambda split, token: (f"{token}.json", f"{token}/"),
    "one folder of images": lambda split, token: (f"annotations/{split}.json", "images/"),
    "images beside the json": lambda split, token: (f"{split}.json", ""),
    "in an only folder": lambda split, token: (f"archive/set/annotations/{token}.json", f"archive/set/{token}/"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, expected, tmp_path):
    for split, images in SPLITS.items():
        file, folder = LAYOUTS[layout](split, {"train": "train", "validation": "val"}[split])
        write_json(tmp_path / file, coco_content(images))
        for name, size, _ in images:
            write_image(tmp_path / folder / name, size)
    (tmp_path / "README.txt").write_text("of the data set")
    data = load_detection_data(tmp_path)
    assert list(data.splits) == ["train", "validation"]
    assert data.label_map == expected.label_map
    for split in SPLITS:
        same_rows(data[split], expected[split])


@pytest.mark.parametrize("folder", ["images", ".", "train"])
def test_a_bare_file(folder, expected, tmp_path):
    write_json(tmp_path / "my train.json", coco_content(SPLITS["train"]))
    for name, size, _ in SPLITS["train"]:
        write_image(tmp_path / folder / name, size)
    same_rows(load_detection_data(tmp_path / "my train.json")["train"], expected["train"])


def test_captions_and_key_points_are_passed_over(expected, tmp_path):
    write_coco_set(tmp_path)
    for name in ("captions_train2017", "person_keypoints_val2017"):
        write_json(tmp_path / "annotations" / f"{name}.json", {"images": [], "annotations": [{"caption": "a cat"}]})
    same_rows(load_detection_data(tmp_path)["train"], expected["train"])


def test_two_files_of_one_split_are_not_guessed_between(tmp_path):
    one_set(tmp_path)
    for name in ("train", "train_extra"):
        write_json(tmp_path / f"{name}.json", coco_content(SPLITS["train"]))
    with pytest.raises(DataError, match=r"train.json and .*train_extra.json both look like the train split"):
        load_detection_data(tmp_path)


def test_string_image_ids(tmp_path):
    """As the fridge objects' published COCO file has them; their images lie in images/ of another folder."""
    published = SAMPLES / "annotations" / "fridge.json"
    content, numbers = json.loads(published.read_text()), load_detection_data(published)["train"]
    for image in content["images"]:
        image["id"] = str(image["id"])
        write_image(tmp_path / "images" / image["file_name"], (image["width"], image["height"]))
    for annotation in content["annotations"]:
        annotation |= {"image_id": str(annotation["image_id"]), "segmentation": [], "ignore": 0}
    data = load_detection_data(write_json(tmp_path / "odFridgeObjects_coco.json", content | {"type": ["instances"]}))
    assert data["train"]["image_id"][:] == [0, 1, 2, 3, 4]
    assert data["train"]["source_id"][:] == [image["id"] for image in content["images"]]
    for write in (write_coco, write_datasets):  # where ids are kept, these are
        write(data, tmp_path / write.__name__)
        same_rows(load_detection_data(tmp_path / write.__name__)["train"], data["train"], without=("file_name",))
        assert load_detection_data(tmp_path / write.__name__)["train"]["source_id"][:] == data["train"]["source_id"][:]
    assert data["train"]["file_name"][:] == numbers["file_name"][:]
    assert data["train"]["objects"][:] == numbers["objects"][:]
    assert data.label_map.category_ids == (1, 2, 3, 4)


def test_annotations_before_images_and_in_any_order(expected, tmp_path):
    def change(content):
        content["annotations"].reverse()
        for key in ("images", "categories"):
            content[key] = content.pop(key)

    data = load_detection_data(one_set(tmp_path, change))
    for row, other in zip(data["train"], expected["train"], strict=True):
        order = [row["objects"]["id"].index(number) for number in other["objects"]["id"]]
        assert {key: [values[place] for place in order] for key, values in row["objects"].items()} == other["objects"]


@pytest.mark.parametrize("ids", [(7, 7, 9), (1.5, 2, 3), ("a", "b", "c"), (2**70, 1, 2)], ids=str)
def test_annotation_ids_that_are_no_ids_are_numbered_anew(ids, tmp_path):
    def change(content):
        for annotation, number in zip(content["annotations"], ids, strict=True):
            annotation["id"] = number

    data = load_detection_data(one_set(tmp_path, change))
    assert [number for objects in data["train"]["objects"] for number in objects["id"]] == [1, 2, 3]


def test_category_ids_that_are_no_numbers(tmp_path):
    def change(content):
        for category in content["categories"]:
            category["id"] = f"c{category['id']}"
        for annotation in content["annotations"]:
            annotation["category_id"] = f"c{annotation['category_id']}"

    data = load_detection_data(one_set(tmp_path, change))
    assert (data.label_map.names, data.label_map.category_ids) == (NAMES, ("c1", "c4", "c44"))
    assert data["train"][0]["objects"]["category"] == [0, 2]


def test_crowds_and_missing_areas(tmp_path):
    def change(content):
        first, second, third = content["annotations"]
        first |= {"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [3, 4]}}
        del first["area"], second["iscrowd"]
        third["area"] = "large"

    objects = load_detection_data(one_set(tmp_path, change))["train"]["objects"][:]
    assert [value for item in objects for value in item["iscrowd"]] == [1, 0, 0]
    assert [item["area"][0] for item in objects if item["area"]] == [200, 64 * 64]


def test_sizes_that_are_not_stated_are_those_of_the_upright_image(tmp_path):
    content = coco_content(SPLITS["train"])
    for image in content["images"]:
        image.pop("width")
        image["height"] = None
    write_json(tmp_path / "a.json", content)
    for name, (width, height), _ in SPLITS["train"]:
        write_image(tmp_path / name, (height, width), orientation=6)
    rows = load_detection_data(tmp_path)["train"]
    assert list(zip(rows["width"][:], rows["height"][:], strict=True)) == [size for _, size, _ in SPLITS["train"]]


def _edit(key, index, **values):
    return lambda content: content[key][index].update(values)


# What is done to the file, and the defects: kind, line, and a part of the text. Images stand from line 2 on,
# annotations from 6 on.
DEFECTS = {
    "absent": (_edit("images", 0, file_name="z.jpg"), [("absent image", 2, "the image z.jpg is listed, but not in")]),
    "no area": (_edit("annotations", 1, bbox=[3, 4, 0, 5]), [("no area", 7, "(x 3, y 4, width 0, height 5)")]),
    "swapped": (_edit("annotations", 1, bbox=[9, 4, -3, 5]), [("swapped corners", 7, "milk bottle ends before")]),
    "outside": (_edit("annotations", 0, bbox=[50, 4, 9, 5]), [("outside the image", 6, "lies outside its 40x30")]),
    "over the edge": (_edit("annotations", 0, bbox=[35, 4, 9, 5]), [("partly outside", 6, "over the edge")]),
    "nan": (_edit("annotations", 2, bbox=[1, 2, float("nan"), 4]), [("not finite", 8, "finite")]),
    "infinite": (_edit("annotations", 2, bbox=[-float("inf"), 2, 3, 4]), [("not finite", 8, "finite")]),
    "beyond float": (_edit("annotations", 2, bbox=[10**400, 2, 3, 4]), [(UNREADABLE, 8, "not four numbers")]),
    "three numbers": (_edit("annotations", 2, bbox=[1, 2, 3]), [(UNREADABLE, 8, "[1, 2, 3] are not four")]),
    "texts": (_edit("annotations", 2, bbox=["1", 2, 3, 4]), [(UNREADABLE, 8, "not four numbers")]),
    "no bbox": (lambda c: c["annotations"][0].pop("bbox"), [(UNREADABLE, 6, "None are not four numbers")]),
    "no object": (lambda c: c["annotations"].insert(0, [1]), [(UNREADABLE, 6, "not an object")]),
    "no image": (_edit("annotations", 0, image_id=99), [("unknown image", 6, "of image 99, which is not listed")]),
    "odd image": (_edit("annotations", 0, image_id=[1]), [("unknown image", 6, "of image [1]")]),
    "no category": (_edit("annotations", 0, category_id=2), [("unknown label", 6, "the label '2' is none")]),
    "odd category": (_edit("annotations", 0, category_id={}), [("unknown label", 6, "the label '{}' is none")]),
    "twice": (_edit("images", 1, id=7), [("duplicate image", 3, "the image id 7 (b.png) is there twice")]),
    "no id": (_edit("images", 1, id=None), [(UNREADABLE, 3, "has no usable id (None)")]),
    "no name": (_edit("images", 1, file_name=5), [("absent image", 3, "no usable file name (5)")]),
    "up": (_edit("images", 1, file_name="../../etc/passwd"), [(OUTSIDE, 3, "outside the data folder")]),
    "absolute": (_edit("images", 1, file_name="/etc/passwd"), [(OUTSIDE, 3, "outside the data folder")]),
    "nul": (_edit("images", 1, file_name="a\0.jpg"), [("absent image", 3, "no usable file name")]),
    "escape": (_edit("images", 1, file_name="\x1b[2J.jpg"), [("absent image", 3, "\\x1b[2J.jpg")]),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_have_file_and_line(defect, tmp_path):
    change, expected = DEFECTS[defect]
    one_set(tmp_path, change)
    found = load_detection_data(tmp_path, defects="skip").defects
    assert [(item.kind, item.where) for item in found] == [
        (kind, f"{tmp_path / 'a.json'}:{line}") for kind, line, _ in expected
    ]
    for item, (_, _, text) in zip(found, expected, strict=True):
        assert text in item.text and "\x1b" not in str(item)
    if any(item.loses for item in found):
        with pytest.raises(DataError, match=r'would be lost .* leave them out with defects="skip"') as error:
            load_detection_data(tmp_path)
        assert f"a.json:{expected[0][1]}: " in str(error.value)
    else:
        assert load_detection_data(tmp_path).defects == found


def test_what_is_defective_is_dropped_and_what_stands_over_is_cut(tmp_path):
    def change(content):
        content["annotations"][0] |= {"bbox": [35, -4, 9, 14], "area": 126}
        content["annotations"][1] |= {"bbox": [5, 5, 0, 5]}
        content["images"][2] |= {"file_name": "absent.jpg"}

    one_set(tmp_path, change)
    data = load_detection_data(tmp_path, defects="skip")
    assert data["train"]["file_name"][:] == ["a.jpg", "b.png"]
    assert [objects["bbox"] for objects in data["train"]["objects"]] == [[[35, 0, 5, 10]], []]
    assert data["train"][0]["objects"]["area"] == [50]
    assert data["train"]["image_id"][:] == [7, 8]
    assert sorted(kinds(tmp_path)) == ["absent image", "no area", "partly outside"]


def test_a_box_over_the_edge_is_kept_as_published_unless_skipping(tmp_path):
    one_set(tmp_path, _edit("annotations", 0, bbox=[35, -4, 9, 14]))
    assert load_detection_data(tmp_path)["train"][0]["objects"]["bbox"][0] == [35, -4, 9, 14]


def test_an_absolute_path_below_the_folder_is_taken(tmp_path):
    one_set(tmp_path, _edit("images", 0, file_name=str(tmp_path / "images" / "a.jpg")))
    assert load_detection_data(tmp_path).defects == ()


def test_when_no_image_is_found_that_is_said_at_once(tmp_path):
    write_json(tmp_path / "a.json", coco_content(SPLITS["train"]))
    with pytest.raises(DataError, match=r"no image of train can be used.\n  .*a.json:2: .*\n  .*\n  .*"):
        load_detection_data(tmp_path, defects="skip")


BROKEN = {
    "{": "a key in quotes was expected",
    '{"images": [{"id": 1},\n {"id": 2}': ":2: this is not valid JSON: a comma or the list's end",
    '{"images": [\n\n{"id": }], "annotations": []': ":3: this is not valid JSON: Expecting value",
    '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}] "x"': "',' was expected",
    '{"images": [' + "[" * 100_000: "nested too deeply",
    '{"images": [], "annotations": []}': "has no list of categories",
    '{"images": [],\n "categories": [\n{"id": 1}]}': ":3: a category needs an id and a name",
    '{"images": [],\n "categories": [{"id": 1, "name": "a"},\n{"id": 1, "name": "b"}]}': ":3: the category 1 is there",
    '{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}': "The class name 'a' stands twice",
    '{"images": [], "categories": [{"id": 1, "name": "\xff"}]}': "not a text of UTF-8",
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:40].encode("ascii", "replace").decode())
def test_broken_files(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as error:
        read("train", tmp_path / "a.json", tmp_path)
    assert "a.json" in str(error.value) and BROKEN[text] in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no valid JSON"),
        ("{", "is no valid JSON"),
        ("\0\1\2", "is no valid JSON"),
        ("[1, 2]", "is no data set of a known form"),
        ('{"images": 3}', "is no data set of a known form"),
    ],
)
def test_what_is_no_coco_file_is_no_data_set(text, told, tmp_path):
    (tmp_path / "a.json").write_text(text)
    for source, words in ((tmp_path, "is no data set of a known form"), (tmp_path / "a.json", told)):
        with pytest.raises(DataError, match=words):
            load_detection_data(source)


@pytest.mark.parametrize("chunk", [1, 7, 64, 10**6])
def test_a_stream_is_the_whole(chunk, tmp_path, monkeypatch):
    """However the text is cut into pieces: in a number, a key, an escape, a character of several bytes."""
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    content = {
        "info": {"year": 2017, "a": [1, {"b": "]},"}]},
        "count": 123456.75e-2,
        "flag": True,
        "empty": [],
        "numbers": [1, -23, 456.5, 1e300, None, False],
        "texts": ["", "ä\u1234😀", 'a"b\\', "\n\t,]}"],
        "images": [{"id": number, "deep": [[{"x": number}]]} for number in range(20)],
    }
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(json.dumps(content, indent=indent, ensure_ascii=bool(indent)), "utf-8-sig")
        found: dict = {key: [] for key, value in content.items() if isinstance(value, list)}
        for key, item, _ in stream_object(tmp_path / "a.json"):
            if key in found:
                found[key].append(item)
            else:
                found[key] = item
        assert found == content


def test_the_stream_knows_its_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 5)
    text = json.dumps({"images": [{"id": number, "x": {"y": 1}} for number in range(30)]}, indent=2)
    (tmp_path / "a.json").write_text(text)
    lines = text.splitlines()
    for _, item, line in stream_object(tmp_path / "a.json"):
        assert lines[line - 1].strip() == "{"
        assert lines[line].strip() == f'"id": {item["id"]},'


@pytest.mark.parametrize("ids", [IDS, (44, 4, 1)])
def test_labels_go_by_rising_category_id(ids, tmp_path):
    data = load_detection_data(write_coco_set(tmp_path, ids=ids))
    assert data.label_map.category_ids == tuple(sorted(ids))
    names = data.label_map.names
    assert [names[label] for label in data["train"][0]["objects"]["category"]] == ["can", "milk bottle"]
