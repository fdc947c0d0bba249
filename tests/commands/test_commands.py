"""`ddetr` from the outside: exit status, one-line errors, what is printed and what is written."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.http_server import serving

from ddetr import arguments as ddetr_arguments
from ddetr.default_model import model_and_images
from ddetr.images import find_images, natural_key, picture_names
from ddetr.main import VERBS, main
from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)
from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.inference.detector import Detector

PHOTOS = Path(__file__).parents[2] / "samples" / "images"
DDETR = Path(sys.executable).parent / "ddetr"
NAMES = {0: "can", 1: "carton", 2: "milk_bottle", 3: "water_bottle"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    """A small model folder; its class heads are spread out so that scores differ."""
    torch.manual_seed(0)
    config = DeformableDetrRefineConfig(
        backbone="resnet18",
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=20,
        id2label=NAMES,
        label2id={name: label for label, name in NAMES.items()},
    )
    model = DeformableDetrRefineForObjectDetection(config)
    for head in model.class_heads:
        torch.nn.init.normal_(head.weight, std=0.2)
    folder = tmp_path_factory.mktemp("models") / "detector"
    model.save_pretrained(folder)
    DeformableDetrRefineImageProcessor(size={"shortest_edge": 120, "longest_edge": 200}).save_pretrained(folder)
    return str(folder)


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


def test_threshold_and_top_k(model_folder, tmp_path):
    photo = str(PHOTOS / "10.jpg")
    assert main(["detect", model_folder, photo, "--output", str(tmp_path), "--threshold", "0", "--top-k", "7"]) == 0
    assert len(written(tmp_path)[0]["boxes"]) == 7
    assert main(["detect", model_folder, photo, "--output", str(tmp_path), "--threshold", "1"]) == 0
    assert written(tmp_path)[0]["boxes"] == []


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
    monkeypatch.setattr(Detector, "_forward", lambda *args: (_ for _ in ()).throw(OSError("out of luck")))
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
        ([model_folder, "none.jpg"], "There is no image or folder none.jpg."),
        ([model_folder, str(tmp_path / "*.png")], "No image fits the pattern"),
        ([model_folder, str(tmp_path / "empty")], "holds no images."),
        ([model_folder, str(PHOTOS.parent)], "Its sub-folders do: give"),
        (["./no/model", photo], "There is no model folder ./no/model."),
        ([str(other), photo], "is a model of type detr, expected deformable_detr_refine"),
        ([str(half), photo], "half"),
        ([model_folder, photo, "--device", "warp"], "There is no device warp here"),
        ([model_folder, photo, "--output", str(tmp_path / "file")], "file is a file, no folder to write in"),
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
    sizes, forward = [], Detector._forward

    def fail_on_red(detector, images, *args):
        sizes.append(len(images))
        if any(image.getpixel((0, 0)) == (255, 0, 0) for image in images):
            raise ValueError("red")
        return forward(detector, images, *args)

    monkeypatch.setattr(Detector, "_forward", fail_on_red)
    arguments = [model_folder, str(tmp_path), "--output", str(tmp_path / "out"), "--batch-size", "3"]
    assert main(["detect", *arguments]) == 1
    assert sizes == [3, 1, 1, 1]
    assert ["error" in record for record in written(tmp_path / "out")] == [False, True, False]


def test_an_output_that_cannot_be_written_is_told_before_the_work(model_folder, tmp_path, monkeypatch, capsys):
    arguments = ["detect", model_folder, str(PHOTOS / "10.jpg"), "--output", str(tmp_path)]
    monkeypatch.setattr(Detector, "_forward", lambda *args: pytest.fail("it began to work"))
    (tmp_path / "detections.json").mkdir()
    assert main(arguments) == 2
    assert "holds other things than earlier results (detections.json/)" in capsys.readouterr().err
    (tmp_path / "detections.json").rmdir()

    def refuse(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmpabc")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(arguments) == 2
    told = f"ddetr detect: error: Nothing can be written in {tmp_path}: Permission denied.\n"
    assert capsys.readouterr().err == told


def with_config(**changes):
    def change(folder: Path):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def with_weights(edit):
    def change(folder: Path):
        file = folder / "model.safetensors"
        file.write_bytes(edit(file.read_bytes()))

    return change


BROKEN_FOLDERS = {
    "empty": (with_weights(lambda data: b""), "model.safetensors is empty"),
    "cut short": (with_weights(lambda data: data[:-1000]), "the weights are damaged or cut short"),
    "pointer": (with_weights(lambda data: b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "other sizes": (with_config(encoder_ffn_dim=32), "the weights do not fit config.json (3 of another shape: model."),
    "more layers": (with_config(encoder_layers=2), "missing: model.encoder.layers.1."),
    "fewer layers": (with_config(decoder_layers=1), "not of this model: model.decoder.box_heads.1.0.bias"),
    "width": (with_config(d_model=40), "config.json is refused: d_model=40 is not divisible by 32"),
    "type": (with_config(d_model="wide"), "config.json is refused: Field 'd_model' expected int, got str"),
    "no labels": (with_config(id2label=[1]), "config.json does not describe a model"),
}


@pytest.mark.parametrize("case", BROKEN_FOLDERS)
@pytest.mark.parametrize("verb", ["detect", "convert"])
def test_a_broken_model_folder_is_one_line(case, verb, model_folder, tmp_path, capsys):
    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    change, message = BROKEN_FOLDERS[case]
    change(folder)
    detecting = ["detect", str(folder), str(PHOTOS / "10.jpg"), "--output", str(tmp_path / "out")]
    converting = ["convert", "--to", "mmdet", str(folder), str(tmp_path / "out.pth")]
    assert main(detecting if verb == "detect" else converting) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ddetr {verb}: error: {folder}") and message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_without_output_it_is_the_folder_found(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", model_folder, str(PHOTOS / "10.jpg")]) == 0
    assert [file.name for file in (tmp_path / "found").iterdir()] == ["detections.json"]
    assert f"Written: {Path('found', 'detections.json')}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "VERB"),
        (["paint"], "invalid choice: 'paint'"),
        (["detect", "m", "a.jpg", "--output"], "--output"),
        (["detect", "m", "a.jpg", "--output", "o", "--threshold", "3"], "3 is not a number from 0 to 1"),
        (["detect", "m", "a.jpg", "--output", "o", "--batch-size", "0"], "0 is not a whole number from 1 on"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "example" in printed
    assert f"  ddetr {verb} " in printed or f"  ddetr {verb}\n" in printed


def test_the_commands_default_threshold_is_the_packages():
    assert ddetr_arguments.OWN_THRESHOLD.endswith(f"else {THRESHOLD}")


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"ddetr {version('deformable-detr-refine')}\n"


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS), ["detect", "m", "none.jpg"]])
def test_help_and_mistyped_names_answer_without_torch(arguments):
    code = (
        "import sys; from ddetr.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'deformable_detr_refine'} & set(sys.modules), 'slow imports'"
    )
    subprocess.run([sys.executable, "-c", code, *arguments, "--output=o"], check=True, capture_output=True, timeout=60)


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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([DDETR, "doctor", "--json"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_doctor_reports_what_runs_and_proves_it(capsys, monkeypatch):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert report["versions"]["deformable-detr-refine"] == version("deformable-detr-refine")
    assert [row["chosen"] for row in report["backends"]].count(True) == 1
    assert "train" in report["extras"] and "datasets" in report["extras"]["train"]
    assert report["cpu"]["cores"] >= 1
    assert report["self_test"] and all(test["max_difference"] < 1e-5 for test in report["self_test"])

    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "Attention operator on" in printed and "largest difference" in printed

    monkeypatch.setattr("ddetr.doctor.TOLERANCE", -1.0)
    assert main(["doctor"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_doctor_says_why(capsys, monkeypatch):
    for value, told in [("torch", "DDETR_BACKEND=torch asks for it"), ("abacus", "names no backend"), (None, "first")]:
        monkeypatch.delenv("DDETR_BACKEND", raising=False)
        if value:
            monkeypatch.setenv("DDETR_BACKEND", value)
        main(["doctor", "--json"])
        assert told in json.loads(capsys.readouterr().out)["why"]


def test_a_backend_that_does_not_run_is_told(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DDETR_BACKEND", "abacus")
    monkeypatch.setattr("deformable_detr_refine.modeling.ops._requested", "abacus")
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not any(row["chosen"] for row in report["backends"]) and "names no backend" in report["why"]
    assert main(["detect", model_folder, str(PHOTOS / "10.jpg"), "--output", str(tmp_path / "out")]) == 2
    assert "DDETR_BACKEND=abacus asks for a backend that does not run on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_are_found_in_the_order_people_count(tmp_path):
    for name in ["b10.jpg", "b2.JPG", "a.png", ".hidden.jpg", "notes.txt", "sub/c.webp", "odd[1].jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = lambda *sources: [Path(path).name for path in find_images([str(tmp_path / s) for s in sources])]  # noqa: E731
    assert names(".") == ["a.png", "b2.JPG", "b10.jpg", "odd[1].jpg"]
    assert names("b*") == ["b2.JPG", "b10.jpg"]
    assert names("**/*") == ["a.png", "b2.JPG", "b10.jpg", "odd[1].jpg", "c.webp"]
    assert names("odd[1].jpg", "notes.txt", "a.png", "a.png") == ["odd[1].jpg", "notes.txt", "a.png", "a.png"]
    assert find_images(["HTTP://example.org/*.jpg"]) == ["HTTP://example.org/*.jpg"]


def test_picture_names_differ_and_are_safe():
    images = [
        "x/a.jpg",
        "y/a.png",
        "A.jpg",
        "a_2.jpg",
        "https://example.org/",
        "https://example.org/..%2F..%2Fb%3Ac.png",
    ]
    names = picture_names(images)
    assert names[:4] == ["a", "a_2", "A_3", "a_2_2"]
    assert len({name.casefold() for name in names}) == len(images)
    assert not any(set(name) & set('/\\:*?"<>|') for name in names)


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["photo.jpg"], None),
        (["photos/", "more/*.png"], None),
        (["https://example.org/a.jpg"], None),
        (["detector", "photo.jpg"], "detector"),
        (["OWNER/NAME", "photo.jpg"], "OWNER/NAME"),
        (["model.onnx", "photo.jpg"], "model.onnx"),
        (["no-such-folder", "photo.jpg"], "no-such-folder"),
    ],
)
def test_without_a_models_name_the_packages_own_detector_is_taken(words, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "model.onnx"):
        (tmp_path / name).write_bytes(b"")
    for name in ("photos", "detector"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "photo.jpg").touch()
    (tmp_path / "detector" / "config.json").write_text("{}")
    chosen, images = model_and_images(words)
    if model is None:
        assert Path(chosen).name == "blood-cells" and images == words
        assert "package's own" in capsys.readouterr().err
    else:
        assert (chosen, images) == (model, words[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["checkpoint.pth", "photo.jpg"], "checkpoint.pth is a checkpoint, no image: `ddetr convert checkpoint.pth"),
        (["photo.jpg", "model.onnx"], "model.onnx is a model, which stands before the images"),
        (["photo.jpg", "detector"], "detector is a model, which stands before the images"),
        (["empty", "photo.jpg"], "The folder empty holds neither a model (config.json) nor images."),
    ],
)
def test_what_is_no_image_is_never_left_to_the_packages_own_detector(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "model.onnx", "checkpoint.pth"):
        (tmp_path / name).touch()
    for name in ("empty", "detector"):
        (tmp_path / name).mkdir()
    (tmp_path / "detector" / "config.json").touch()
    with pytest.raises(ValueError, match=re.escape(said)):
        model_and_images(words)


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


def test_a_model_without_an_image_is_told(saved):
    with pytest.raises(ValueError, match="name an image too"):
        model_and_images([str(saved)])


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
