"""`ddetr convert`: thin, one line for an error, one JSON document for a program."""

import json

import pytest

from ddetr.main import main
from deformable_detr_refine.conversion import open_checkpoint


def test_there_and_back(runner_checkpoint, save, tmp_path, capsys):
    path = save(runner_checkpoint("refine_twostage"))
    (tmp_path / "names.json").write_text(json.dumps(list("vwxyz")))
    out, back = str(tmp_path / "out"), str(tmp_path / "back.pth")
    assert main(["convert", str(path), out, "--json", "--classes", str(tmp_path / "names.json")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["variant"] == "refine_twostage" and report["labels"] == list("vwxyz") and report["output"] == out
    assert main(["convert", "--to", "mmdet", out, back]) == 0
    assert "241 tensors" in capsys.readouterr().out
    assert open_checkpoint(back)["meta"]["dataset_meta"]["CLASSES"] == tuple("vwxyz")
    assert main(["convert", back, out, "--force"]) == 0
    assert "labels: the checkpoint's dataset_meta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pth", "out"], "There is no checkpoint absent.pth: check the path."),
        (["--to", "mmdet", "absent", "out.pth"], "There is no model folder absent"),
        (["--to", "mmdet", "absent", "out.pth", "--num-heads", "8"], "drop --num-heads"),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ddetr convert: error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
