"""Azure's MLTable folders: as its samples make them, local ones, and files that are broken or hostile."""

import json
from pathlib import Path

import pytest
from support.data_sets import kinds, write_image

from deformable_detr_refine.data.defects import DataError
from deformable_detr_refine.data.formats.load import load_detection_data

STORE = "azureml://subscriptions/1/resourcegroups/2/workspaces/3/datastores/workspaceblobstore/paths/LocalUpload/4/"


def entry(label="can", corners=(0.25, 0.5, 0.75, 1.0), **more) -> dict:
    return {"label": label, **dict(zip(("topX", "topY", "bottomX", "bottomY"), corners, strict=True)), **more}


def line(url: str, labels: list, width=40, height=20) -> dict:
    return {"image_url": url, "image_details": {"format": "jpg", "width": width, "height": height}, "label": labels}


def write_table(folder: Path, lines: list, name="lines.jsonl", table: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = table or f"paths:\n  - file: ./{name}\ntransformations:\n  - read_json_lines:\n      encoding: utf8\n"
    (folder / "MLTable").write_text(table)
    (folder / name).write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in lines))
    return folder


def test_the_folders_that_azures_sample_makes(tmp_path):
    """Two MLTable folders beside the folder of images, whose URLs are of the data store they were uploaded to."""
    for number in (1, 2, 3):
        write_image(tmp_path / "odFridgeObjects" / "images" / f"{number}.jpg", (40, 20))
    urls = [f"{STORE}odFridgeObjects/images/{number}.jpg" for number in (1, 2, 3)]
    jar = entry("jar", (0, 0, 0.1, 0.2), isCrowd=1)
    write_table(tmp_path / "training-mltable-folder", [line(urls[1], [entry(), jar]), line(urls[2], [])])
    write_table(tmp_path / "validation-mltable-folder", [line(urls[0], [entry()])])
    data = load_detection_data(tmp_path)
    assert (data.format, data.defects, list(data.splits)) == ("azure", (), ["train", "validation"])
    assert data.label_map.names == ("can", "jar")
    assert data["train"]["file_name"][:] == ["odFridgeObjects/images/2.jpg", "odFridgeObjects/images/3.jpg"]
    objects = data["train"][0]["objects"]
    assert objects["bbox"] == [pytest.approx([10, 10, 20, 10]), pytest.approx([0, 0, 4, 4])]
    assert (objects["category"], objects["iscrowd"]) == ([0, 1], [0, 1])
    assert data["train"][1]["objects"]["id"] == []


@pytest.mark.parametrize(
    "url", ["./images/1.jpg", "images/1.jpg", "1.jpg", "file://images/1.jpg", f"{STORE}images/1.jpg"]
)
def test_local_paths(url, tmp_path):
    write_image(tmp_path / "images" / "1.jpg", (40, 20))
    write_table(tmp_path, [line(url, [entry()])])
    for source in (tmp_path, tmp_path / "MLTable", tmp_path / "lines.jsonl"):
        row = load_detection_data(source)["train"][0]
        assert (row["file_name"], row["objects"]["bbox"]) == ("1.jpg", [[10, 10, 20, 10]])


def test_the_longest_end_of_a_remote_path_is_taken(tmp_path):
    for name in ("images/1.jpg", "b/images/1.jpg"):
        write_image(tmp_path / name, (40, 20))
    write_table(tmp_path, [line(f"{STORE}a/b/images/1.jpg", [entry()])])
    assert load_detection_data(tmp_path)["train"][0]["image"]["path"] == str(tmp_path / "b" / "images" / "1.jpg")


def test_a_remote_image_that_is_not_here(tmp_path):
    write_image(tmp_path / "1.jpg", (40, 20))
    write_table(tmp_path, [line("1.jpg", [entry()]), line(f"{STORE}images/2.jpg", [])])
    (defect,) = load_detection_data(tmp_path, defects="skip").defects
    assert (defect.kind, defect.where, defect.loses) == ("absent image", f"{tmp_path / 'lines.jsonl'}:2", "image")
    assert "download the data store's folder" in defect.text


@pytest.mark.parametrize(("width", "height"), [("40px", "20px"), (40, 20), ("40", "20"), (None, None), ("wide", 20)])
def test_sizes(width, height, tmp_path):
    write_image(tmp_path / "1.jpg", (20, 40), orientation=6)
    write_table(tmp_path, [line("1.jpg", [entry()], width, height)])
    row = load_detection_data(tmp_path)["train"][0]
    assert (row["width"], row["height"], row["objects"]["bbox"]) == (40, 20, [[10, 10, 20, 10]])


# A second line, and the defects: kind and text.
DEFECTS = {
    "broken": ('{"image_url": ', "unreadable annotation", "not valid JSON"),
    "no object": ("[1]", "unreadable annotation", "no object with an image_url"),
    "no url": ({"label": []}, "unreadable annotation", "no object with an image_url"),
    "a class": (line("1.jpg", []) | {"label": "can"}, "unreadable annotation", "label is no list of boxes, but 'can'"),
    "deep": ("[" * 100_000, "unreadable annotation", "not valid JSON"),
    "binary": ('{"image_url": "\udcff"}', "unreadable annotation", "not valid JSON"),
    "polygon": (line("1.jpg", [{"label": "can", "polygon": [[1]]}]), "unreadable annotation", "not four numbers"),
    "no name": (line("1.jpg", [entry(None)]), "unreadable annotation", "an entry of label has no name"),
    "no entry": (line("1.jpg", [3]), "unreadable annotation", "an entry of label has no name: 3"),
    "no area": (line("1.jpg", [entry(corners=(0.5, 0.5, 0.5, 0.75))]), "no area", "(x 20, y 10, width 0, height 5)"),
    "swapped": (line("1.jpg", [entry(corners=(0.5, 0.5, 0.2, 0.75))]), "swapped corners", "ends before it begins"),
    "pixels": (line("1.jpg", [entry(corners=(10, 10, 30, 20))]), "outside the image", "outside its 40x20 image"),
    "up": (line("../../etc/passwd", []), "outside the folder", "outside the data folder"),
    "absolute": (line("/etc/passwd", []), "outside the folder", "outside the data folder"),
    "file": (line("file:///etc/passwd", []), "outside the folder", "outside the data folder"),
    "remote up": (line("azureml://a/../../../etc/passwd", []), "absent image", "not below the folder"),
    "web": (line("https://example.org/1.jpg", [], None), "unreadable image", "URLs are not fetched"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_have_file_and_line(defect, tmp_path):
    second, kind, text = DEFECTS[defect]
    write_image(tmp_path / "1.jpg", (40, 20))
    write_table(tmp_path, [line("1.jpg", [entry()])])
    with (tmp_path / "lines.jsonl").open("ab") as file:
        second = second if isinstance(second, str) else json.dumps(second)
        file.write(b"\n" + second.encode("utf-8", "surrogateescape"))
    (found,) = load_detection_data(tmp_path, defects="skip").defects
    assert (found.kind, found.where) == (kind, f"{tmp_path / 'lines.jsonl'}:2")
    assert text in found.text
    with pytest.raises(DataError, match=r"lines\.jsonl:2: "):
        load_detection_data(tmp_path)


BAD_TABLES = {
    "paths:\n  - file: ../../secret.jsonl": "lies outside the data folder",
    "paths:\n  - file: absent.jsonl": "the file absent.jsonl is listed, but not in",
    "paths:\n  - folder: .": "names no file of JSON lines",
    "[]": "names no file of JSON lines",
    "paths: [": "is no YAML",
    "paths: !!python/object/apply:os.system ['touch hacked']": "is no YAML",
}


@pytest.mark.parametrize("table", BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_broken_and_hostile_tables(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "a" / "b", [], table=table)
    with pytest.raises(DataError, match=BAD_TABLES[table]):
        load_detection_data(tmp_path / "a" / "b")
    assert not (tmp_path / "hacked").exists()


def test_several_files_of_one_table(tmp_path):
    for number in (1, 2):
        write_image(tmp_path / f"{number}.jpg", (40, 20))
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(line(f"{number}.jpg", [entry()])))
    (tmp_path / "MLTable").write_text("paths:\n  - file: ./2.jsonl\n  - file: ./1.jsonl\n")
    assert load_detection_data(tmp_path)["train"]["file_name"][:] == ["2.jpg", "1.jpg"]
    assert kinds(tmp_path) == []
