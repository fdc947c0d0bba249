"""No row of a batch's input vanishes from its output, whatever the form of either."""

import base64
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.modeling.image_io import as_text
from deformable_detr_refine.serving.batch.run import run_batch
from deformable_detr_refine.serving.batch.shard import detect_shard
from deformable_detr_refine.serving.batch.tables import scan

parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

NOT_UTF_8 = "caf\udce9.png"
# Names in the folder; the last ones are no image, not there, and no address.
GOOD = [*(f"{number}.png" for number in range(9)), NOT_UTF_8]
BAD = ["broken.png", "absent.png", "http://[::1/x.jpg"]


@pytest.fixture(scope="module")
def engine(saved_small):
    """All shards in this process, by one detector."""
    detector = Detector(saved_small)
    return str(saved_small), lambda settings, shards, workers: (
        detect_shard(detector, settings, shard) for shard in shards
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(GOOD):
        Image.new("RGB", (40 + number, 30), (9 * number, 0, 0)).save(folder / name)
    (folder / "broken.png").write_text("no image")
    return folder


def write_csv(path: Path, rows: list[list[str]], mark: str = "") -> Path:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.write(mark)
        csv.writer(file).writerows(rows)
    return path


def write_inputs(folder: Path, images: Path) -> dict[str, tuple[Path, int]]:
    """Every form of input, and how many rows it has."""
    paths = [str(images / name) if "://" not in name else name for name in GOOD + BAD]
    content = [base64.b64encode((images / name).read_bytes()).decode() for name in GOOD]
    inputs = {
        "header.csv": write_csv(folder / "header.csv", [["id", "image"], *(["1", path] for path in paths)]),
        "one column.csv": write_csv(folder / "one column.csv", [[path] for path in paths]),
        "two columns.csv": write_csv(folder / "two columns.csv", [["7", path] for path in paths], mark="\ufeff"),
        "urls.csv": write_csv(folder / "urls.csv", [[path] for path in reversed(paths)]),
        "base64.csv": write_csv(folder / "base64.csv", [[text] for text in [*content, "", "nonsense", content[0]]]),
        "absent.csv": write_csv(folder / "absent.csv", [["in/absent"], *([path] for path in paths[1:])]),
        "short.csv": write_csv(
            folder / "short.csv", [["1", path] if i % 2 == 0 else ["1"] for i, path in enumerate(paths)]
        ),
        "header.jsonl": folder / "header.jsonl",
        "t.parquet": folder / "t.parquet",
    }
    lines = ["no json", *(json.dumps({"image": as_text(path)}) for path in paths[:-3]), "[]", "{}"]
    (folder / "header.jsonl").write_text("\n".join(lines))
    parquet.write_table(pyarrow.table({"image": [as_text(path) for path in paths]}), folder / "t.parquet")
    (folder / "table").mkdir()
    (folder / "table" / "MLTable").write_text("paths:\n  - file: a.jsonl\n")
    (folder / "table" / "a.jsonl").write_text("\n".join(json.dumps({"image_url": as_text(path)}) for path in paths))
    count = len(GOOD + BAD)
    return {
        **{name: (path, count) for name, path in inputs.items()},
        "MLTable": (folder / "table", count),
        "folder": (images, len(GOOD) + 1),
        "pattern": (images / "*.png", len(GOOD) + 1),
    }


def rows_of(path: Path) -> list[tuple[str | None, int]]:
    """Of each row of an output its image's name, where the form has one, and how many boxes."""
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["index"] for line in lines] == list(range(len(lines)))
        return [(line["image"], len(line["boxes"])) for line in lines]
    if path.suffix == ".parquet":
        table = parquet.read_table(path).to_pylist()
        assert [row["index"] for row in table] == list(range(len(table)))
        return [(row["image"], len(row["boxes"])) for row in table]
    with path.open(newline="", encoding="utf-8") as file:
        return [(None, len(json.loads(row[1])["boxes"])) for row in csv.reader(file)]


@pytest.mark.parametrize(
    ("text", "column", "rows"),
    [
        ("Image/URL\nhttps://x/a.jpg\nhttps://x/b.jpg\n", "Image/URL", 2),
        ("date,w/h,image\n1,2,a.jpg\n", "image", 1),
        ("in/absent\nin/b.jpg\n", "column 1", 2),
    ],
)
def test_a_slash_alone_makes_no_image_of_a_header(text, column, rows, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    table = scan(tmp_path / "t.csv", None)
    assert (table.column, table.rows) == (column, rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_rows_in_are_rows_out(suffix, engine, images, tmp_path):
    model, run = engine
    found = {}
    for name, (source, count) in write_inputs(tmp_path, images).items():
        output = tmp_path / f"{name} out{suffix}"
        summary = run_batch(model, str(source), output, engine=run)
        rows = rows_of(output)
        assert (name, len(rows), summary.images) == (name, count, count)
        assert sum(boxes == 0 for _, boxes in rows) == summary.failed, name
        found[name] = rows
    usual = found["header.csv"]
    assert [boxes > 0 for _, boxes in usual] == [True] * len(GOOD) + [False] * len(BAD)
    for name in ("one column.csv", "two columns.csv", "t.parquet", "MLTable"):
        assert [boxes for _, boxes in found[name]] == [boxes for _, boxes in usual], name
    assert [boxes for _, boxes in found["urls.csv"]] == [boxes for _, boxes in reversed(usual)]
    if suffix != ".csv":
        assert as_text(str(images / NOT_UTF_8)) in [image for image, _ in found["one column.csv"]]
        assert {image for image, _ in found["folder"]} == {as_text(name) for name in [*GOOD, "broken.png"]}


def test_what_lies_beside_the_images_is_told(engine, images, tmp_path):
    model, run = engine
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    for name in ("1.png", "deeper/2.png"):
        (folder / name).write_bytes((images / "1.png").read_bytes())
    for name in ("film.mp4", "deeper/list.csv", ".hidden.png", "README"):
        (folder / name).touch()
    summary = run_batch(model, str(folder), tmp_path / "out.jsonl", engine=run)
    assert (summary.images, summary.failed) == (2, 0)
    assert summary.left_out is not None and summary.left_out.startswith("3 files are no images by their names (")
