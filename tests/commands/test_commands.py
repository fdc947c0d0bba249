"""`ddetr` from the outside: exit status, one-line errors, help, and what doctor says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from ddetr import arguments as ddetr_arguments
from ddetr.main import ENDED_BY_THEMSELVES, VERBS, error_sentence, main
from deformable_detr_refine import machine
from deformable_detr_refine.files import new_path
from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.messages import near

PHOTOS = Path(__file__).parents[2] / "samples" / "images"
DDETR = Path(sys.executable).parent / "ddetr"


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
    "no labels": (with_config(id2label=[1]), "config.json is refused: id2label must name 1 to"),
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


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("", [], "VERB"),
        ("", ["paint"], "invalid choice: 'paint'"),
        (" detect", ["m", "a.jpg", "--output"], "--output"),
        (" detect", ["m", "a.jpg", "--output", "o", "--threshold", "3"], "3 is not a number from 0 to 1"),
        (" detect", ["m", "a.jpg", "--output", "o", "--batch-size", "0"], "0 is not a whole number from 1 on"),
        (" detect", ["m", "a.jpg", "--treshold=1"], "unrecognized arguments: --treshold=1; did you mean --threshold?"),
        (" data inspect", ["boxes", "--xyz"], "unrecognized arguments: --xyz"),
    ],
)
def test_wrong_arguments_are_one_line_of_their_verb(verb, arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*verb.split(), *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert error.startswith(f"ddetr{verb}: error: ") and error.endswith(f" (see: ddetr{verb} --help)\n")


def test_a_warning_of_the_package_is_one_line_without_its_source(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit):
        main(["detect"])
    assert (
        warnings.formatwarning(UserWarning("a\n b"), UserWarning, machine.__file__, 1) == "ddetr detect: warning: a b\n"
    )
    for kind, file in ((FutureWarning, machine.__file__), (UserWarning, pytest.__file__)):
        assert warnings.formatwarning(kind("a"), kind, file, 1).startswith(f"{file}:1: {kind.__name__}: a\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "example" in printed
    assert f"  ddetr {verb} " in printed or f"  ddetr {verb}\n" in printed


def test_what_is_not_there_may_be_a_program_and_a_name_of_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for path in ("file", b"file"):
        with pytest.raises(FileNotFoundError) as caught:
            os.rename(path, "none/b")
        assert error_sentence(caught.value) == "There is no file, folder or program file: check the path."
    with pytest.raises(FileNotFoundError) as caught:
        subprocess.run(["ffmpegx"])
    assert error_sentence(caught.value) == "There is no file, folder or program ffmpegx: check the path."


def test_a_drive_that_is_not_there_has_no_parent(monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    assert near("/x/y") == ": check the path."


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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_nothing_half_written(number, tmp_path, monkeypatch, capsys):
    def work(args):
        with new_path(tmp_path / "new" / "model") as new:
            new.write_text("half")
            if not (child := os.fork()):
                os.kill(os.getpid(), number)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == number  # not unwound: a fork would take away what is its parent's
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr("ddetr.doctor.run", work)
    try:
        assert main(["doctor"]) == 128 + number
    finally:
        assert signal.signal(number, before) is signal.SIG_DFL  # the second time it ends at once
    assert capsys.readouterr().err == "ddetr doctor: interrupted\n" and not any(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("verb", ENDED_BY_THEMSELVES)
def test_verbs_with_an_end_of_their_own_keep_it(verb, monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(f"ddetr.{verb}.run", lambda args: int(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL))
    try:
        assert main([verb, *["m", "in", "--output", "o"][: 4 * (verb == "batch")]]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
