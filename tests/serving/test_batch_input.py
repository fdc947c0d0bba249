"""What a batch reads: every form gives the same images, in order, also from the middle on."""

import base64
import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from deformable_detr_refine.inference.detector import DetectionFailure
from deformable_detr_refine.serving.batch.input import open_input, shard_size

COUNT = 21


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images 0.png ... 20.png, each of another size; every third in a folder of its own."""
    root = tmp_path_factory.mktemp("images")
    for i in range(COUNT):
        (root / name_of(i)).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16 + i, 16)).save(root / name_of(i))
    return root


def name_of(i: int) -> str:
    return f"deeper/{i}.png" if i % 3 == 0 else f"{i}.png"


def images_of(source, size=8, column=None) -> list:
    return [image for shard in open_input(str(source), column).shards(size) for image in shard.images()]


def content(image) -> bytes:
    return image.source if isinstance(image.source, bytes) else image.source.read_bytes()


def write_csv(path: Path, header: str, cells) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", header], *([i, cell] for i, cell in enumerate(cells))])
    return path


def write_parquet(path: Path, column: str, values, row_group_size=5) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"id": list(range(len(values))), column: values}), path, row_group_size=row_group_size)
    return path


def test_folder_in_the_order_in_which_people_count(folder):
    images = images_of(folder)
    assert [image.name for image in images] == sorted(
        (name_of(i) for i in range(COUNT)), key=lambda name: ("/" in name, int(Path(name).stem))
    )
    assert [image.index for image in images] == list(range(COUNT))
    assert all(content(image) == (folder / image.name).read_bytes() for image in images)


@pytest.mark.parametrize("form", ["csv-base64", "csv-path", "jsonl", "parquet-bytes", "parquet-struct", "parquet-path"])
def test_tables_give_each_image_once_and_in_order(folder, tmp_path, form):
    names = [name_of(i) for i in range(COUNT)]
    raw = [(folder / name).read_bytes() for name in names]
    beside = [os.path.relpath(folder / name, tmp_path) for name in names]
    if form == "csv-base64":
        path = write_csv(tmp_path / "t.csv", "image", [base64.encodebytes(item).decode() for item in raw])
    elif form == "csv-path":
        path = write_csv(tmp_path / "t.csv", "image", beside)
    elif form == "jsonl":
        path = tmp_path / "t.jsonl"
        path.write_text("".join(json.dumps({"image_url": name}) + "\n" for name in beside))
    elif form == "parquet-bytes":
        path = write_parquet(tmp_path / "t.parquet", "image", raw)
    elif form == "parquet-struct":
        path = write_parquet(
            tmp_path / "t.parquet", "image", [{"bytes": b, "path": p} for b, p in zip(raw, names, strict=True)]
        )
    else:
        path = write_parquet(tmp_path / "t.parquet", "file_name", beside)
    images = images_of(path)
    assert [content(image) for image in images] == raw
    assert [(image.index, image.row, image.file) for image in images] == [(i, i, path.name) for i in range(COUNT)]
    named = {"csv-base64": None, "parquet-bytes": None, "parquet-struct": names}.get(form, beside)
    assert [image.name for image in images] == (named or [f"{path.name}#{i}" for i in range(COUNT)])


def test_a_shard_reads_from_the_middle_of_its_table(folder, tmp_path):
    raw = [(folder / name_of(i)).read_bytes() for i in range(COUNT)]
    for path in (
        write_csv(tmp_path / "t.csv", "image", [base64.encodebytes(item).decode() for item in raw]),
        write_parquet(tmp_path / "t.parquet", "image", raw, row_group_size=7),
    ):
        *_, last = open_input(str(path)).shards(8)
        assert [(image.index, content(image)) for image in last.images()] == list(enumerate(raw))[16:]


def test_several_tables_count_on(folder, tmp_path):
    for part in (2, 10):
        write_csv(tmp_path / f"{part}.csv", "image", [str(folder / name_of(i)) for i in range(part)])
    images = images_of(tmp_path / "*.csv")
    assert [(image.file, image.row) for image in images] == [("2.csv", i) for i in range(2)] + [
        ("10.csv", i) for i in range(10)
    ]
    assert [image.index for image in images] == list(range(12))
    assert images_of(tmp_path) == images


def test_mltable_of_json_lines_with_azure_urls(folder, tmp_path):
    (tmp_path / "MLTable").write_text("paths:\n  - file: ./test.jsonl\ntransformations: []\n")
    (tmp_path / "images").symlink_to(folder)
    store = "azureml://subscriptions/s/datastores/d/paths/somewhere/images/"
    lines = [json.dumps({"image_url": url + name_of(i), "label": []}) for i, url in enumerate([store, "images/"])]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    images = images_of(tmp_path)
    assert [content(image) for image in images] == [(folder / name_of(i)).read_bytes() for i in range(2)]
    assert images_of(tmp_path / "MLTable") == images


def test_rows_that_hold_no_image_say_why_in_their_place(folder, tmp_path):
    cells = ["", "missing.jpg", "http://127.0.0.1:9/a.jpg", "no base64!", str(folder / name_of(1)), "file:///etc"]
    images = images_of(write_csv(tmp_path / "t.csv", "image", cells))
    errors = [image.source.error if isinstance(image.source, DetectionFailure) else None for image in images]
    assert errors[0] == "The row has no image."
    assert "missing.jpg" in errors[1]
    assert "not public" in errors[2]
    assert "neither base64 nor" in errors[3]
    assert errors[4] is None
    assert errors[5] is not None


def test_broken_lines_keep_their_place(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": ""}\nno json\n\n[1]\n')
    assert [image.source.error for image in images_of(tmp_path / "t.jsonl")] == [
        "The row has no image.",
        "The line is no object with image.",
        "The line is no object with image.",
    ]
    (tmp_path / "t.csv").write_text("id,image\n1\n")
    assert [image.source.error for image in images_of(tmp_path / "t.csv")] == ["The row has no image."]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("none.csv", None, "There is no file"),
        ("t.csv", "a,b\n1,2\n", "has the columns a, b: none of them is named image"),
        ("t.csv", "image\n", "holds no rows"),
        ("t.csv", "", "has no columns"),
        ("t.csv", 'image\n0.png\n"1.png\n2.png\n', r"t.csv, line 3: this is no CSV \(unexpected end of data\)"),
        ("t.csv", '"1.png\n2.png\n', r"t.csv, line 1: this is no CSV"),
        ("t.csv", "id;image\n1;1.png\n", r"the cells stand between ';', not between commas"),
        ("t.csv", "1\t1.png\n", r"the cells stand between '\\t', not between commas"),
        ("t.csv", "\ufeffimage\n1.png\n".encode("utf-16-le"), "is written in UTF-16; save it as UTF-8"),
        ("t.jsonl", '\ufeff{"image": "1.png"}\n'.encode("utf-16-be"), "is written in UTF-16"),
        ("t.parquet", "no parquet", "cannot be read"),
        ("t.txt", "text", "is neither an image nor a table"),
        ("MLTable", "paths:\n  - file: azureml://a/b.jsonl\n", "download it"),
        ("MLTable", "paths:\n  - file: gone.jsonl\n", "is not there"),
        ("MLTable", "paths: [", "is no YAML"),
        ("*.csv", None, "fits the pattern"),
        ("https://example.org/a.jpg", None, "write the URLs into a CSV"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((OSError, ValueError), match=message):
        open_input(name if "://" in name else str(tmp_path / name))


def test_the_column_can_be_named(folder, tmp_path):
    path = write_csv(tmp_path / "t.csv", "picture", [str(folder / name_of(i)) for i in range(3)])
    assert len(images_of(path, column="picture")) == 3
    with pytest.raises(ValueError, match="no column photo, only id, picture"):
        open_input(str(path), "photo")


def test_shards_are_few_and_whole():
    for count in (1, 79, 80_000, 1_000_001, 10_000_000):
        size = shard_size(count, 3)
        assert size % 8 == 0 and size >= 24 and count / size <= 10_000
