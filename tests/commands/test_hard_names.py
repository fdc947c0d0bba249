"""Names that a file system or a terminal cannot take, and inputs that are none: nothing else is lost by them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.small_detector import save_small_detector
from support.training_runs import SETTINGS, write_split

from ddetr.images import find_images_and_faults, picture_names
from ddetr.main import VERBS, main
from deformable_detr_refine.modeling.image_io import as_text

NOT_UTF_8 = "caf\udce9.jpg"
OTHER_SCRIPT = ("кошка", "猫", "\N{CAT FACE}", "ß", "cat")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """Its classes are named in other scripts."""
    folder = save_small_detector(tmp_path_factory.mktemp("models") / "detector")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(OTHER_SCRIPT))
    config["label2id"] = {name: label for label, name in enumerate(OTHER_SCRIPT)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (96, 64), (200, 100, 50)).save(path)
    return path


def written(folder: Path) -> list[dict]:
    return json.loads((folder / "detections.json").read_text(encoding="utf-8"))


def test_names_of_any_bytes_and_length(model_folder, tmp_path):
    names = [NOT_UTF_8, "\N{CAT FACE}" * 60 + ".jpg", "a" * 250 + ".jpg", "fine.jpg"]
    photos = [str(save_photo(tmp_path / "in" / name)) for name in names]
    output = tmp_path / "gefunden-\udcfc"
    assert main(["detect", str(model_folder), *photos, "--output", str(output), "--draw"]) == 0
    records = written(output)
    assert [record["image"] for record in records] == [as_text(photo) for photo in photos]
    assert len(list((output / "drawn").iterdir())) == 4
    again = [record["image"] for record in records]  # a name as it is written names the file
    assert main(["detect", str(model_folder), *again, "--output", str(output)]) == 0
    assert written(output) == records


def test_a_picture_that_cannot_be_written_loses_nothing_else(model_folder, tmp_path, monkeypatch, capsys):
    photos = [str(save_photo(tmp_path / name)) for name in ("a.jpg", "b.jpg")]
    output = tmp_path / "found"
    save = Image.Image.save

    def refuse(image, file, **options):
        if Path(file).name == "a.jpg":
            raise OSError("File name too long")
        save(image, file, **options)

    monkeypatch.setattr(Image.Image, "save", refuse)
    assert main(["detect", str(model_folder), *photos, "--output", str(output), "--draw", "--threshold", "0"]) == 1
    assert [len(record["boxes"]) for record in written(output)] == [100, 100]
    assert (output / "drawn" / "b.jpg").is_file()
    assert f"the picture of {photos[0]} is not written" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_every_bad_input_is_a_failed_row(model_folder, tmp_path, capsys):
    photo = str(save_photo(tmp_path / "a.jpg"))
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    bad = {
        "http://[::1/x.jpg": "http://[::1/x.jpg is no address: Invalid IPv6 URL",
        "http://ex ample:port/x.jpg": "is no address: Port could not be cast",
        "https://\udce9.example/x.jpg": "is no address",
        f"http://{'a' * 70}.example/x.jpg": "label",
        str(tmp_path / "typo.jpg"): "There is no image or folder",
        str(tmp_path / "empty"): "holds no images",
        str(tmp_path / "pipe.jpg"): "There is no image or folder",
        str(tmp_path / "*.gif"): "No image fits the pattern",
        "a\0b.jpg": "There is no image or folder",
    }
    assert main(["detect", str(model_folder), photo, *bad, photo, "--output", str(tmp_path / "found")]) == 1
    first, *failed, last = written(tmp_path / "found")
    assert [record["image"] for record in failed] == [as_text(name) for name in bad]
    for record, text in zip(failed, bad.values(), strict=True):
        assert text in record["error"] and record["boxes"] == []
    assert first == last and "error" not in first
    assert "11 images" in (printed := capsys.readouterr().out) and "9 failed" in printed


def test_without_any_image_the_first_fault_is_the_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no image or folder .*typo.jpg"):
        find_images_and_faults([str(tmp_path / "typo.jpg"), str(tmp_path)])


def test_what_a_folder_holds_besides_is_told(model_folder, tmp_path, capsys):
    for name in ("a.JPG", "b.jfif", "deeper/c.jpg"):
        save_photo((tmp_path / "in" / name).with_suffix(".jpg")).rename(tmp_path / "in" / name)
    for name in ("film.mp4", "notes.txt", ".DS_Store"):
        (tmp_path / "in" / name).touch()
    assert main(["detect", str(model_folder), str(tmp_path / "in"), "--output", str(tmp_path / "found")]) == 0
    assert [Path(record["image"]).name for record in written(tmp_path / "found")] == ["a.JPG", "b.jfif"]
    told = capsys.readouterr().err
    assert "2 files are no images by their names (." in told
    assert "its sub-folders (1) are not looked into" in told


HOSTILE = ("\x1b[2J\x1b]0;owned\x07", "gpj.\u202eexe", "nul\0", "two\nddetr info: error: no", "\x9b31m\u2066")


def test_no_name_moves_the_cursor_or_turns_the_writing_around(tmp_path, capsys):
    folder = save_small_detector(tmp_path / "detector")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(HOSTILE))
    config["label2id"] = {name: label for label, name in enumerate(HOSTILE)}
    (folder / "config.json").write_text(json.dumps(config))
    photos = [save_photo(tmp_path / "\x1b[31mred\n\u202e.jpg"), tmp_path / "\x1b[0m.jpg"]
    photos[1].write_bytes(b"damaged")
    model, good, bad = str(folder), *map(str, photos)
    lowest = ["--threshold", "0"]
    assert main(["info", model]) == 0
    assert main(["info", model, "--json"]) == 0
    assert main(["detect", model, good, bad, "--output", str(tmp_path / "found"), "--draw", *lowest]) == 1
    assert main(["detect", model, good, "--output", str(tmp_path / "found"), "--json", *lowest]) == 0
    assert main(["visualize", model, good, "--output", str(tmp_path / "looked"), "--top", "1", *lowest]) == 0
    assert main(["detect", model, str(tmp_path / "\x1b[1m.jpg"), "--output", str(tmp_path / "found")]) == 2
    printed = "".join(capsys.readouterr())
    assert not [mark for mark in "\x1b\x07\x9b\0\u202e\u2066" if mark in printed]
    assert "\\x1b[2J" in printed and "gpj.\\u202eexe" in printed and "\nddetr info" not in printed


def test_picture_names_are_cut_by_bytes():
    names = picture_names(["\N{CAT FACE}" * 100 + ".jpg"] * 2 + ["http://[::1/x.jpg", NOT_UTF_8])
    assert max(len(os.fsencode(name)) for name in names) < 200 and len(set(names)) == 4
    "".join(names).encode()


RUN_ALL = """
import json, sys
from ddetr.main import main
statuses = {}
for number, words in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))):
    print("verb", words[0], flush=True)
    try:
        statuses[f"{number} {words[0]}"] = main(words)
    except SystemExit as error:
        statuses[f"{number} {words[0]}"] = error.code
json.dump(statuses, open(sys.argv[2], "w"))
"""


@pytest.mark.slow
def test_every_verb_prints_to_an_output_that_is_not_utf_8(model_folder, tmp_path):
    """One process runs them all; those that would wait for ever are asked for something that is not there."""
    save_photo(tmp_path / "in" / "снимок.jpg")
    write_split(tmp_path / "data" / "train", (2, 1), seed=0)
    write_split(tmp_path / "data" / "valid", (1, 2), seed=1)
    for file in (tmp_path / "data").rglob("*.json"):
        content = json.loads(file.read_text())
        for category, name in zip(content["categories"], OTHER_SCRIPT, strict=False):
            category["name"] = name
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {**SETTINGS, "data": str(tmp_path / "data"), "output_dir": str(tmp_path / "trained")}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    model, photos, data = str(model_folder), str(tmp_path / "in"), str(tmp_path / "data")
    commands = [
        ["info", model],
        ["detect", model, photos, "--output", str(tmp_path / "found"), "--draw", "--threshold", "0"],
        ["detect", model, photos, "--output", str(tmp_path / "found"), "--threshold", "0", "--json"],
        ["evaluate", model, data, "--output", str(tmp_path / "evaluated")],
        ["batch", model, photos, "--output", str(tmp_path / "batch.jsonl"), "--workers", "1"],
        ["data", "inspect", data, "--output", str(tmp_path / "looked-at")],
        ["data", "inspect", data, "--json"],
        ["data", "convert", data, str(tmp_path / "yolo-кошка"), "--to", "yolo"],
        ["train", str(tmp_path / "settings.yaml")],
        [
            "visualize",
            model,
            str(tmp_path / "in" / "снимок.jpg"),
            "--output",
            str(tmp_path / "looked"),
            "--top",
            "1",
            "--threshold",
            "0",
        ],
        ["benchmark", model, "--size", "64x64", "--runs", "1", "--backends", "torch", "--forms", "float32"],
        ["export", model, str(tmp_path / "mlflow-кошка"), "--to", "mlflow"],
        ["doctor"],
    ]
    absent = str(tmp_path / "нет")
    refused = [
        ["convert", absent, str(tmp_path / "out")],
        ["verify", absent],
        ["serve", absent],
        ["demo", absent],
        ["push", absent, "me/кошка"],
    ]
    assert {words[0] for words in commands + refused} == set(VERBS)
    (tmp_path / "commands.json").write_text(json.dumps(commands + refused), encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(tmp_path / "commands.json"), str(tmp_path / "statuses.json")],
        env=environment,
        capture_output=True,
        timeout=900,
    )
    output = process.stdout.decode("ascii")
    assert process.returncode == 0, output[-2000:] + process.stderr.decode("ascii")[-4000:]
    statuses = list(json.loads((tmp_path / "statuses.json").read_text()).items())
    for name, status in statuses[: len(commands)]:
        assert status == 0, (name, process.stderr.decode("ascii")[-4000:])
    for name, status in statuses[len(commands) :]:
        assert status == 2, name
    assert ascii("кошка")[1:-1] in output and "кошка" in (tmp_path / "found" / "detections.json").read_text("utf-8")
    process.stderr.decode("ascii")
