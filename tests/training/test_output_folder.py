"""A run's folder is held before any work: writable, its own, or one to go on in."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from deformable_detr_refine.training.output_folder import changed_settings, checkpoint_to_resume
from deformable_detr_refine.training.settings import read_settings


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


def changed(folder, before: str, now: str) -> str:
    """What is told of a run that goes on with other words than those of its settings.yaml."""
    (folder / "settings.yaml").write_text(before)
    return changed_settings(folder / "checkpoint-3", read_settings(["--output_dir", str(folder), *now.split()]))


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize("name", ["learning_rate", "slow_factor"])
def test_a_rate_that_would_not_count_is_refused(schedule, name, tmp_path):
    before, now = (
        f"lr_scheduler_type: {schedule}",
        f"--lr_scheduler_type {schedule} --eval_strategy epoch --{name} 0.03",
    )
    with pytest.raises(ValueError, match=f"was trained with {name} .*, this run has 0.03: go on with"):
        changed(tmp_path, before, now)
    drops = "lr_drop_epochs: [1]"
    assert f"{name} 0.03" in changed(tmp_path, f"{before}\n{drops}", f"{now} --lr_drop_epochs 1")
    assert f"{name} 0.03" in changed(tmp_path, "{}", f"--{name} 0.03")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("optim: adamw_torch", "--optim adamw_torch_fused"),
        ("optim: adamw_torch_fused", "--optim adamw_torch"),
        ("{}", "--optim adamw_torch"),
        ("seed: 7", "--seed 7 --data_seed 7"),
        ("run_name: nan", "--run_name nan"),
    ],
)
def test_the_same_training_in_other_words_is_no_change(before, now, tmp_path):
    assert changed(tmp_path, before, now) == ""


def test_another_training_is_refused_with_what_to_do_in_every_folder(tmp_path):
    for before, now in (("seed: 7", "--seed 8"), ("optim: sgd", "--optim adamw_torch_fused")):
        with pytest.raises(ValueError, match="or start anew, without --resume_from_checkpoint in a new --output_dir"):
            changed(tmp_path, before, now)


def test_a_change_is_told_without_passwords_and_keys(tmp_path):
    host = f"{'a' * 30}.example.org"
    before = f"data: https://user:{'password' * 9}@{host}/x?sig=123456"
    said = changed(tmp_path, before, f"--data https://{host}/y?sig=123456")
    assert said.partition(";")[0] == f'data "https://{host}/y" (before "https://{host}/x")'


def test_that_the_best_so_far_was_evaluated_in_another_way_is_told(tmp_path):
    assert changed(tmp_path, "max_steps: 3", "--max_steps 4") == "max_steps 4 (before 3)"
    said = changed(tmp_path, "max_steps: 3\nshortest_edge: 300", "--shortest_edge 400 --max_steps 4")
    assert said.endswith("; the best result so far, which later ones are compared with, is of the settings before")
