"""A run's folder is held before any work: writable, its own, or one to go on in."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from deformable_detr_refine.training.output_folder import checkpoint_to_resume


def settings(folder, resume=None, dry_run=False, world_size=1):
    return SimpleNamespace(
        output_dir=str(folder), resume_from_checkpoint=resume, dry_run=dry_run, world_size=world_size
    )


def test_a_new_folder_is_not_made_yet_and_what_a_dry_run_leaves_is_no_hindrance(tmp_path):
    folder = tmp_path / "deep" / "down"
    assert checkpoint_to_resume(settings(folder)) is None
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    for name in ("dry_run.jpg", "settings.yaml", "train.log", ".cache"):
        (folder / name).touch()
        assert checkpoint_to_resume(settings(folder)) is None


@pytest.mark.parametrize("name", ["model.safetensors", "thesis.docx", "metrics.json"])
def test_a_folder_with_something_of_value_is_refused(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"is not empty .{name}.: choose another --output_dir"):
        checkpoint_to_resume(settings(tmp_path))
    assert checkpoint_to_resume(settings(tmp_path, resume="true")) is None
    assert checkpoint_to_resume(settings(tmp_path, dry_run=True)) is None


def test_a_file_or_a_place_where_nothing_can_be_written_is_told(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(OSError, match=r"Nothing can be written in --output_dir .*: .*/file is a file\."):
            checkpoint_to_resume(settings(folder))


def test_checkpoints_are_gone_on_from_when_asked(tmp_path):
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    for name in ("rng_state.pth", "optimizer.pt", "scheduler.pt"):
        torch.save({}, checkpoint / name)
    save_file({}, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match="--resume_from_checkpoint true"):
        checkpoint_to_resume(settings(tmp_path))
    assert checkpoint_to_resume(settings(tmp_path, resume=True)) == checkpoint
    with pytest.raises(ValueError, match="another number of processes"):
        checkpoint_to_resume(settings(tmp_path, resume=True, world_size=2))
    assert checkpoint_to_resume(settings(tmp_path / "new", resume=str(checkpoint))) == checkpoint
