"""`ddetr detect` from the outside: what it writes and prints, and what it says of images that it cannot use."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.http_server import serving

from ddetr.images import natural_key
from ddetr.main import main
from deformable_detr_refine.inference.network import Network

PHOTOS = Path(__file__).parents[2] / "samples" / "images"
DDETR = Path(sys.executable).parent / "ddetr"
NAMES = {0: "can", 1: "carton", 2: "milk_bottle", 3: "water_bottle"}


def written(folder: Path) -> list[dict]:
    return json.loads((folder / "detections.json").read_text(encoding="utf-8"))


def test_detect_writes_what_the_design_says(model_folder, tmp_path, capsys):
    output = tmp_path / "new" / "found"
    assert main(["detect", model_folder, str(PHOTOS), "--output", str(output), "--draw"]) == 0
    records = written(output)
    photos = sorted(PHOTOS.glob("*.jpg"), key=lambda path: natural_key(path.name))
    assert [record["image"] for record in records] == [str(photo) for photo in photos]
    for record, photo in zip(records, photos, strict=True):
        assert list(record) == ["image", "width", "height", "boxes", "scores", "labels"]
        assert (record["width"], record["height"]) == Image.open(photo).size
        boxes, scores = np.array(record["boxes"]), np.array(record["scores"])
        assert len(boxes) == len(scores) == len(record["labels"]) > 0
        assert (boxes >= 0).all() and (boxes <= [record["width"], record["height"]] * 2).all()
        assert (scores > 0.3).all() and (np.diff(scores) <= 0).all()
        assert set(record["labels"]) <= set(NAMES.values())
        assert Image.open(output / "drawn" / photo.name).size == (record["width"], record["height"])
    assert sorted(file.name for file in output.iterdir()) == ["detections.json", "drawn"]
    printed = capsys.readouterr().out
    assert f"{len(photos)} images, {sum(len(record['labels']) for record in records)} boxes above 0.3" in printed


def test_batches_give_the_numbers_of_single_images(model_folder, tmp_path):
    for size in (1, 3):
        main(["detect", model_folder, str(PHOTOS), "--output", str(tmp_path / str(size)), "--batch-size", str(size)])
    for one, batched in zip(written(tmp_path / "1"), written(tmp_path / "3"), strict=True):
        assert one["image"] == batched["image"]
        assert batched["scores"] == pytest.approx(one["scores"], abs=1e-5)
        assert len(batched["labels"]) == len(one["labels"])


def test_threshold_and_top_k(model_folder, tmp_path, capsys):
    photo = str(PHOTOS / "10.jpg")
    assert main(["detect", model_folder, photo, "--output", str(tmp_path), "--threshold", "0", "--top-k", "7"]) == 0
    assert len(written(tmp_path)[0]["boxes"]) == 7 and "a lower --threshold" not in capsys.readouterr().out
    assert main(["detect", model_folder, photo, "--output", str(tmp_path), "--threshold", "1"]) == 0
    assert written(tmp_path)[0]["boxes"] == []
    assert "1 image, 0 boxes above 1: a lower --threshold shows weaker ones" in capsys.readouterr().out


def test_json_prints_the_file_and_nothing_else(model_folder, tmp_path, capsys):
    main(["detect", model_folder, str(PHOTOS / "10.jpg"), "--output", str(tmp_path), "--json"])
    assert capsys.readouterr().out == (tmp_path / "detections.json").read_text(encoding="utf-8")


def test_an_unreadable_image_is_told_and_the_others_go_on(model_folder, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    photo = str(PHOTOS / "10.jpg")
    with serving({}) as address:
        sources = [str(bad), photo, f"{address}/none.jpg"]
        assert main(["detect", model_folder, *sources, "--output", str(tmp_path / "out")]) == 1
    records = written(tmp_path / "out")
    assert [record["image"] for record in records] == sources
    assert ["error" in record for record in records] == [True, False, True]
    assert list(records[0]) == ["image", "width", "height", "boxes", "scores", "labels", "error"]
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "bad.jpg is not an image" in lines[0]
    assert "404" in lines[1]


@pytest.mark.parametrize("count", [1, 2])
def test_where_nothing_can_be_read_nothing_is_written(count, model_folder, tmp_path, capsys):
    bad = [tmp_path / f"{number}.jpg" for number in range(count)]
    for file in bad:
        file.write_bytes(b"not an image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.json").write_text("[]")
    assert main(["detect", model_folder, *map(str, bad), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + count * (count > 1) and "0.jpg is not an image" in lines[0]
    assert lines[-1].startswith("ddetr detect: error: ") and (count == 1 or "None of 2 images can be used" in lines[-1])
    assert written(tmp_path / "out") == []


def test_urls_and_turned_photos(model_folder, tmp_path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(turned, exif=exif)
    with serving({"/a.jpg": (PHOTOS / "10.jpg").read_bytes()}) as address:
        arguments = [f"{address}/a.jpg", str(PHOTOS / "10.jpg"), str(turned)]
        assert main(["detect", model_folder, *arguments, "--output", str(tmp_path / "out")]) == 0
    from_url, from_file, upright = written(tmp_path / "out")
    assert (from_url["boxes"], from_url["scores"]) == (from_file["boxes"], from_file["scores"])
    assert (upright["width"], upright["height"]) == (48, 64)


def test_an_earlier_result_stays_when_a_run_fails(model_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "detections.json").write_text("[]")
    monkeypatch.setattr(Network, "detect", lambda *args: (_ for _ in ()).throw(OSError("out of luck")))
    assert main(["detect", model_folder, str(PHOTOS / "10.jpg"), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "ddetr detect: error: out of luck\n"
    assert [file.name for file in tmp_path.iterdir()] == ["detections.json"]
    assert written(tmp_path) == []


def test_errors_are_one_line_with_exit_status_2(model_folder, tmp_path, capsys):
    photo = str(PHOTOS / "10.jpg")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "detr"}')
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text((Path(model_folder) / "config.json").read_text())
    (tmp_path / "file").touch()
    (tmp_path / "empty" / "below").mkdir(parents=True)
    cases = [
        ([model_folder, "none.jpg"], "There is no image or folder none.jpg: check the path."),
        ([model_folder, str(PHOTOS / "BloodImage_00053.jpeg")], f"did you mean {PHOTOS / 'BloodImage_00053.jpg'}?"),
        ([model_folder, "ftp://a/b.jpg"], "those that begin with http:// or https:// are"),
        ([model_folder, str(tmp_path / "*.png")], "No image fits the pattern"),
        ([model_folder, str(tmp_path / "empty")], "holds no images."),
        ([model_folder, str(PHOTOS.parent)], "Its sub-folders do: give"),
        (["./no/model", photo], "There is no model folder ./no/model: check the path."),
        ([str(other), photo], "is a model of type detr, expected deformable_detr_refine"),
        ([str(half), photo], "half"),
        (
            [model_folder, photo, "--device", "warp"],
            "There is no device warp here: give cpu, cuda, cuda:1, mps or auto.",
        ),
        ([model_folder, photo, "--output", str(tmp_path / "file")], "Nothing can be written in --output"),
    ]
    for arguments, message in cases:
        status = main(["detect", "--output", str(tmp_path / "out"), *arguments])
        captured = capsys.readouterr()
        assert status == 2, arguments
        assert captured.out == ""
        last = captured.err.splitlines()[-1]
        assert last.startswith("ddetr detect: error: ") and message in last
        assert not (tmp_path / "out").exists()


@pytest.fixture
def thin(tmp_path) -> str:
    Image.new("RGB", (5000, 1)).save(tmp_path / "thin.png")
    return str(tmp_path / "thin.png")


@pytest.mark.parametrize("size", ["1", "2"])
def test_an_image_too_thin_to_resize_is_told_and_the_others_go_on(size, thin, model_folder, tmp_path, capsys):
    sources = [str(PHOTOS / "10.jpg"), thin, str(PHOTOS / "11.jpg")]
    assert main(["detect", model_folder, *sources, "--output", str(tmp_path / "out"), "--batch-size", size]) == 1
    good, bad, other = written(tmp_path / "out")
    assert "error" not in good and "error" not in other and good["boxes"] and other["boxes"]
    assert bad["image"] == thin and (bad["width"], bad["height"]) == (5000, 1) and bad["boxes"] == []
    captured = capsys.readouterr()
    assert captured.err == f"ddetr detect: {bad['error']}\n" and thin in bad["error"] and "5000x1" in bad["error"]
    assert "3 images" in captured.out and ", 1 failed" in captured.out


def test_an_image_with_fewer_tokens_than_queries_is_told(model_folder, tmp_path):
    folder = tmp_path / "many"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_queries": 60}))
    Image.new("RGB", (200, 2)).save(tmp_path / "low.png")
    sources = [str(tmp_path / "low.png"), str(PHOTOS / "10.jpg")]
    assert main(["detect", str(folder), *sources, "--output", str(tmp_path / "out"), "--draw"]) == 1
    low, good = written(tmp_path / "out")
    assert "fewer than num_queries=60" in low["error"] and "error" not in good
    assert [file.name for file in (tmp_path / "out" / "drawn").iterdir()] == ["10.jpg"]


def test_one_odd_image_does_not_fail_its_batch(model_folder, tmp_path, monkeypatch):
    for number, colour in enumerate(["white", "red", "blue"]):
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{number}.png")
    sizes, detect = [], Network.detect

    def fail_on_red(network, images, *args):
        sizes.append(len(images))
        if any(image.getpixel((0, 0)) == (255, 0, 0) for image in images):
            raise ValueError("red")
        return detect(network, images, *args)

    monkeypatch.setattr(Network, "detect", fail_on_red)
    arguments = [model_folder, str(tmp_path), "--output", str(tmp_path / "out"), "--batch-size", "3"]
    assert main(["detect", *arguments]) == 1
    assert sizes == [3, 1, 1, 1]
    assert ["error" in record for record in written(tmp_path / "out")] == [False, True, False]


def test_an_output_that_cannot_be_written_is_told_before_the_work(model_folder, tmp_path, monkeypatch, capsys):
    arguments = ["detect", model_folder, str(PHOTOS / "10.jpg"), "--output", str(tmp_path)]
    monkeypatch.setattr(Network, "detect", lambda *args: pytest.fail("it began to work"))
    (tmp_path / "detections.json").mkdir()
    assert main(arguments) == 2
    assert "holds other things than earlier results (detections.json/)" in capsys.readouterr().err
    (tmp_path / "detections.json").rmdir()

    def refuse(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmpabc")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(arguments) == 2
    told = f"ddetr detect: error: Nothing can be written in --output {tmp_path}: Permission denied.\n"
    assert capsys.readouterr().err == told


def test_without_output_it_is_the_folder_found(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", model_folder, str(PHOTOS / "10.jpg")]) == 0
    assert [file.name for file in (tmp_path / "found").iterdir()] == ["detections.json"]
    assert f"Written: {Path('found', 'detections.json')}" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_interrupt_ends_with_130(model_folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(500):
        (photos / f"{number}.jpg").symlink_to(PHOTOS / "10.jpg")
    command = [DDETR, "detect", model_folder, str(photos), "--output", str(tmp_path / "out"), "--draw"]
    # As in a terminal: what runs in a shell's background ignores SIGINT, and so would its children.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while (
        not list(tmp_path.glob("out/.ddetr-new-*/drawn/*.jpg"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "ddetr detect: interrupted\n"
    assert not (tmp_path / "out").exists()


def test_an_output_folder_is_of_one_run(model_folder, tmp_path):
    """Pictures of an earlier run do not stay beside the boxes of a later one."""
    for extra in (["--draw"], []):
        arguments = [str(PHOTOS / "10.jpg"), "--output", str(tmp_path / "out"), *extra]
        assert main(["detect", model_folder, *arguments]) == 0
        assert (
            sorted(item.name for item in (tmp_path / "out").iterdir()) == ["detections.json", "drawn"][: 1 + len(extra)]
        )
    (tmp_path / "out" / "thesis.tex").touch()
    assert main(["detect", model_folder, *arguments]) == 2


def test_the_packages_own_detector_finds_the_cells_that_people_drew(samples, tmp_path, monkeypatch):
    """As `make demo` holds it to."""
    monkeypatch.syspath_prepend(samples.parent)
    from demo import found_of_drawn

    images = [str(file) for file in sorted(samples.glob("BloodImage_*.jpg"))]
    assert main(["detect", *images, "--output", str(tmp_path)]) == 0
    records = json.loads((tmp_path / "detections.json").read_text())
    assert all(record["labels"].count("WBC") == 1 for record in records)
    found, drawn = found_of_drawn(records)
    assert drawn == 48 and found > 0.7 * drawn
