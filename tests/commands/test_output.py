"""An output folder is of one run: earlier results give way whole or stay whole, and nothing else is touched."""

import os
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from ddetr.output import check_results_folder, results_folder
from deformable_detr_refine.files import full_disk, new_path

OWN = ("a.json", "drawn/")


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_new_results_take_the_place_of_all_earlier_ones(tmp_path):
    folder = tmp_path / "new" / "found"
    with results_folder(folder, OWN) as new:
        (new / "drawn").mkdir()
        (new / "drawn" / "old.jpg").touch()
        (new / "a.json").write_text("1")
    with results_folder(folder, OWN) as new:
        assert names(folder / "drawn") == ["old.jpg"]  # until the end
        (new / "a.json").write_text("2")
    assert names(folder) == ["a.json"] and (folder / "a.json").read_text() == "2"


def test_a_failure_leaves_what_was_there(tmp_path):
    for folder, held in ((tmp_path / "new", None), (tmp_path / "old", ["a.json"])):
        if held:
            folder.mkdir()
            (folder / "a.json").touch()
        with pytest.raises(KeyboardInterrupt), results_folder(folder, OWN) as new:
            (new / "a.json").write_text("half")
            raise KeyboardInterrupt
        assert folder.exists() == bool(held) and (not held or names(folder) == held)


def interrupt_behind_renaming(monkeypatch, after):
    rename, done = os.rename, []

    def interrupted(path, name):
        rename(path, name)
        done.append(path)
        if len(done) == after + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)


@pytest.mark.parametrize("after", range(4))
def test_an_interrupt_while_results_take_their_place_loses_nothing(tmp_path, monkeypatch, after):
    """Old ones stay until the last new one is there, also where a signal comes right behind a renaming."""
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "old.jpg").touch()
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), results_folder(tmp_path, OWN) as new:
        (new / "drawn").mkdir()
        (new / "a.json").write_text("new")
        interrupt_behind_renaming(monkeypatch, after)
    assert names(tmp_path) == ["a.json", "drawn"]
    assert (tmp_path / "a.json").read_text() == "old" and names(tmp_path / "drawn") == ["old.jpg"]


def test_an_interrupt_while_earlier_results_are_removed_keeps_the_new(tmp_path, monkeypatch):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "old.jpg").touch()

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), results_folder(tmp_path, OWN) as new:
        (new / "a.json").write_text("new")
        monkeypatch.setattr("shutil.rmtree", interrupted)
    assert (tmp_path / "a.json").read_text() == "new" and not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("after", range(2))
def test_an_interrupt_while_a_folder_takes_its_place_keeps_the_old(tmp_path, monkeypatch, after):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    interrupt_behind_renaming(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt), new_path(tmp_path / "model") as new:
        new.mkdir()
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["old"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path, error):
    """Also where another package wraps what the system says, as MLflow does."""
    (tmp_path / "a.json").touch()
    with (
        pytest.raises(OSError, match=f"^The disk of {tmp_path} is full, so nothing is written in {tmp_path}, and what"),
        results_folder(tmp_path, OWN) as new,
    ):
        (new / "a.json").write_text("half")
        raise RuntimeError("the file cannot be copied") from error
    assert names(tmp_path) == ["a.json"] and not (tmp_path / "a.json").read_text()
    with (
        pytest.raises(
            OSError, match=f"^The disk of {tmp_path} is full, so {tmp_path}/b is not written, and what stood"
        ),
        new_path(tmp_path / "b") as new,
    ):
        new.mkdir()
        raise error
    assert names(tmp_path) == ["a.json"]


def test_pytorchs_writer_does_not_say_that_the_disk_is_full(tmp_path, monkeypatch):
    error = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    assert full_disk(error, tmp_path) is None
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=100))
    assert full_disk(error, tmp_path) == tmp_path


def test_a_folder_with_other_files_is_refused_and_remains_of_a_killed_run_are_not(tmp_path):
    (tmp_path / ".ddetr-new-0123").mkdir()
    check_results_folder(tmp_path, OWN)
    (tmp_path / "thesis\x1b.tex").touch()
    with pytest.raises(ValueError, match=r"holds other things than earlier results \(thesis\\x1b\.tex\): choose"):
        check_results_folder(tmp_path, OWN)
    (tmp_path / "other" / "a.json").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"a\.json/"):
        check_results_folder(tmp_path / "other", OWN)
    with pytest.raises(OSError, match=r"Nothing can be written in --output .* is a file"):
        check_results_folder(tmp_path / "thesis\x1b.tex" / "below", OWN)


def test_the_folder_of_the_shell_stays_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with results_folder(tmp_path, OWN) as new:
        (new / "a.json").touch()
    assert os.listdir() == ["a.json"]
