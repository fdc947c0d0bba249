"""A run goes on from a checkpoint that is whole, or says in one sentence what is wrong with it; nothing is lost."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training_runs import TINY, history, largest_difference, weights
from torch.optim.lr_scheduler import ReduceLROnPlateau

try:
    import resource
except ImportError:  # Windows
    resource = None

from ddetr.main import main as ddetr
from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.training.checkpoints import (
    MANIFEST,
    fault_of,
    newest_whole_checkpoint,
    read_trainer_state,
    writing,
)
from deformable_detr_refine.training.optimizer import drops_at
from deformable_detr_refine.training.saved_state import check_optimizer_state, check_scheduler_state
from deformable_detr_refine.training.train import train
from deformable_detr_refine.training.trainer import DetectionTrainer

RUN = {
    "max_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "per_device_train_batch_size": 1,
    "augmentation": "light",
    "ema_decay": 0.9,
    "eval_strategy": "no",
}


@pytest.fixture(scope="module")
def settings(settings_file, boxes_data):
    """Without validation data: an evaluation takes longer than these steps."""
    return lambda folder, **changes: settings_file(folder, **{**RUN, "data": str(boxes_data / "train"), **changes})


@pytest.fixture(scope="module")
def finished(settings, module_folder) -> Path:
    """A run of two steps, with a checkpoint after each and an average of the weights."""
    folder = module_folder("finished") / "out"
    train([str(settings(folder))])
    return folder


@pytest.fixture
def stopped(finished, tmp_path) -> Path:
    """The folder as it was after the second checkpoint; tests damage it."""
    for step in (1, 2):
        shutil.copytree(finished / f"checkpoint-{step}", tmp_path / "out" / f"checkpoint-{step}")
    return tmp_path / "out"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_checkpoint_tells_every_file_with_its_size_and_digest(finished):
    checkpoint = finished / "checkpoint-2"
    files = {path.name for path in checkpoint.iterdir() if path.is_file()}
    assert set(json.loads((checkpoint / MANIFEST).read_text())) == files - {MANIFEST}
    assert {"training_weights.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} < files
    assert fault_of(checkpoint) is None


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip])
@pytest.mark.parametrize("name", ["model.safetensors", "training_weights.safetensors", "optimizer.pt", "config.json"])
def test_half_a_copy_is_named_and_the_one_before_it_is_taken(stopped, name, damage):
    damage(stopped / "checkpoint-2" / name)
    said = []
    assert newest_whole_checkpoint(stopped, say=said.append) == stopped / "checkpoint-1"
    (text,) = said
    assert text.startswith(f"{stopped}/checkpoint-2 is not whole ({name} ")
    assert text.endswith("the one before it is taken.")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", cut),
        ("optimizer.pt", cut),
        ("optimizer.pt", Path.unlink),
        ("scheduler.pt", Path.unlink),
        ("rng_state.pth", cut),
        ("trainer_state.json", cut),
    ],
)
def test_without_a_manifest_the_files_themselves_are_looked_at(stopped, name, damage):
    (stopped / "checkpoint-2" / MANIFEST).unlink()
    assert fault_of(stopped / "checkpoint-2") is None
    damage(stopped / "checkpoint-2" / name)
    assert name in fault_of(stopped / "checkpoint-2")


def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one_to_the_same_weights(finished, stopped, settings, capsys):
    (stopped / "checkpoint-2" / "optimizer.pt").unlink()
    (stopped / "checkpoint-²").mkdir()
    train([str(settings(stopped, resume_from_checkpoint=True))])
    said = capsys.readouterr().out
    assert "checkpoint-2 is not whole (optimizer.pt is missing): the one before it is taken." in said
    assert f"Going on from {stopped}/checkpoint-1." in said
    assert largest_difference(weights(finished), weights(stopped)) == 0
    assert [line.get("loss") for line in history(finished)] == [line.get("loss") for line in history(stopped)]


def test_a_run_that_was_killed_after_its_last_step_is_finished(finished, stopped, settings, capsys, monkeypatch):
    monkeypatch.setattr(DeformableDetrRefineForObjectDetection, "load_backbone_weights", lambda model, name: None)
    train([str(settings(stopped, resume_from_checkpoint=True, backbone_weights="pretrained"))])
    said = capsys.readouterr().out
    assert "All 2 steps had been made already" in said and "ImageNet weights come from" not in said
    assert not (stopped / "checkpoint-3").exists()
    assert largest_difference(weights(stopped), weights(finished)) == 0


def test_no_whole_checkpoint_is_no_new_beginning(stopped, settings, capsys):
    for step in (1, 2):
        (stopped / f"checkpoint-{step}" / "scheduler.pt").unlink()
    assert ddetr(["train", str(settings(stopped, resume_from_checkpoint=True))]) == 2
    error = capsys.readouterr().err
    assert "checkpoint-2 is not whole (scheduler.pt is missing), nor is one before it" in error
    assert error.count("\n") == 1
    named = settings(stopped, resume_from_checkpoint=str(stopped / "checkpoint-2"))
    assert ddetr(["train", str(named)]) == 2
    assert "checkpoint-2 is not whole (scheduler.pt is missing): copy it again" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in its folders")
@pytest.mark.parametrize("name", ["trainer_state.json", MANIFEST, "optimizer.pt", "rng_state.pth", "model.safetensors"])
def test_a_pipe_in_a_checkpoint_is_not_read(stopped, name):
    (stopped / "checkpoint-2" / name).unlink()
    os.mkfifo(stopped / "checkpoint-2" / name)
    assert fault_of(stopped / "checkpoint-2") == f"{name} is no file"
    assert newest_whole_checkpoint(stopped) == stopped / "checkpoint-1"
    shutil.rmtree(stopped / "checkpoint-1")
    if name != MANIFEST:
        (stopped / "checkpoint-2" / MANIFEST).unlink()
    with pytest.raises(ValueError, match="nor is one before it"):
        newest_whole_checkpoint(stopped)


def test_a_manifest_of_no_numbers_is_damaged(stopped):
    (stopped / "checkpoint-2" / MANIFEST).write_text('{"config.json": {"bytes": 1e400, "sha256": NaN}}')
    assert fault_of(stopped / "checkpoint-2") == "manifest.json is damaged"


def test_steps_between_logs_and_checkpoints_are_this_runs(stopped, settings):
    train([str(settings(stopped, resume_from_checkpoint=True, max_steps=4, save_steps=2, logging_steps=2))])
    assert (stopped / "checkpoint-4").is_dir() and not (stopped / "checkpoint-3").exists()
    assert [line["step"] for line in history(stopped) if "loss" in line] == [1, 2, 4]


def test_a_run_that_was_killed_in_its_first_checkpoint_begins_anew(stopped):
    shutil.rmtree(stopped / "checkpoint-2")
    for name in (MANIFEST, "trainer_state.json"):
        (stopped / "checkpoint-1" / name).unlink()
    said = []
    assert newest_whole_checkpoint(stopped, say=said.append) is None
    assert said == [f"{stopped}/checkpoint-1 is not whole (trainer_state.json is missing): the run begins anew."]


@pytest.mark.parametrize(
    "change",
    [{"global_step": "6"}, {"global_step": -1}, {"log_history": [1]}, {"stateful_callbacks": "none"}, {"steps": 6}, []],
)
def test_a_state_that_no_trainer_writes_is_damaged(stopped, change):
    file = stopped / "checkpoint-2" / "trainer_state.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **change} if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match=r"trainer_state\.json is damaged"):
        read_trainer_state(file.parent)


def other_shapes(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    for entry in content["state"].values():
        entry["exp_avg"], entry["exp_avg_sq"] = torch.zeros(1), torch.zeros(1)
    torch.save(content, file)


def other_names(file: Path) -> None:
    tensors = load_file(file)
    tensors["more"] = tensors.popitem()[1]
    save_file(tensors, file)


def other_values(file: Path) -> None:
    torch.save({"python": 1, "last_epoch": "soon"}, file)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("optimizer.pt", other_shapes, "exp_avg has the shape (1,), its parameter wants"),
        ("scheduler.pt", other_values, "it is not the state of a schedule"),
        ("rng_state.pth", other_values, "rng_state.pth cannot be gone on from"),
        ("model.safetensors", other_names, "it lacks"),
        ("training_weights.safetensors", other_names, "it lacks"),
    ],
)
def test_what_does_not_fit_the_run_is_one_sentence(stopped, settings, capsys, name, damage, said):
    """Without the manifest, as of an older run: the files are what they say they are, and of another run."""
    (stopped / "checkpoint-2" / MANIFEST).unlink()
    damage(stopped / "checkpoint-2" / name)
    assert ddetr(["train", str(settings(stopped, resume_from_checkpoint=True, max_steps=3))]) == 2
    error = capsys.readouterr().err
    assert said in error and f"checkpoint-2/{name}" in error and "--resume_from_checkpoint" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mixed_query_selection": True}, "with mixed_query_selection false, this run has true: go on with"),
        ({"dropout": 0.5}, "was trained with dropout 0.0, this run has 0.5: go on with"),
        ({"quality_target": 0.25}, "was trained with quality_target null, this run has 0.25: go on with"),
        ({"bbox_loss_coefficient": 1}, "was trained with bbox_loss_coefficient 5.0, this run has 1: go on with"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_config_is_refused_and_the_settings_of_the_run_stay(stopped, settings, capsys, changed, said):
    (stopped / "settings.yaml").write_text("seed: 42\n")
    other = settings(stopped, resume_from_checkpoint=True, max_steps=3, model_config={**TINY, **changed})
    assert ddetr(["train", str(other)]) == 2
    error = capsys.readouterr().err
    assert said in error and "settings of the run (its settings.yaml)" in error
    assert (stopped / "settings.yaml").read_text() == "seed: 42\n"


def test_fewer_steps_than_were_made_leave_the_settings(stopped, settings, capsys):
    (stopped / "settings.yaml").write_text("seed: 42\n")
    assert ddetr(["train", str(settings(stopped, resume_from_checkpoint=True, max_steps=1))]) == 2
    assert "has made 2 steps, and this run is to make 1" in capsys.readouterr().err
    assert (stopped / "settings.yaml").read_text() == "seed: 42\n"


def test_what_a_checkpoint_decides_is_refused_and_every_other_change_is_told(finished, stopped, settings, capsys):
    shutil.copy(finished / "settings.yaml", stopped)
    for name, value in {"seed": 1, "weight_decay": 0.5, "freeze": ["neck"]}.items():
        assert ddetr(["train", str(settings(stopped, resume_from_checkpoint=True, max_steps=3, **{name: value}))]) == 2
        error = capsys.readouterr().err
        assert f"checkpoint-2 was trained with {name} " in error and f"this run has {json.dumps(value)}: go on" in error
    assert (stopped / "settings.yaml").read_text() == (finished / "settings.yaml").read_text()
    changes = {"max_steps": 3, "learning_rate": 0.0003, "augmentation": "none"}
    train([str(settings(stopped, resume_from_checkpoint=True, **changes))])
    said = capsys.readouterr().out
    (line,) = [
        line for line in said.splitlines() if line.startswith(f"Going on from {stopped}/checkpoint-2, from here on")
    ]
    for change in (
        "max_steps 3 (before 2)",
        "learning_rate 0.0003 (before 0.0001)",
        'augmentation "none" (before "light")',
    ):
        assert change in line
    assert history(stopped)[-2]["learning_rate"] == pytest.approx(0.0001)  # a third of it is left


def small_optimizer() -> torch.optim.Optimizer:
    """After a step; its first parameter has the shape 2, 3."""
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.AdamW([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.5}], lr=0.1)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state["state"][0].update(exp_avg=torch.zeros(3, 2)),
        lambda state: state["state"][0].update(exp_avg=torch.zeros(2, 3, dtype=torch.int64)),
        lambda state: state["state"][0].update(exp_avg=torch.zeros(2, 3).to_sparse()),
        lambda state: state["state"][0].update(step=torch.zeros(6)),
        lambda state: state["state"][0].update(exp_avg_sq=None),
        lambda state: state["state"][0].pop("exp_avg_sq"),
        lambda state: state["param_groups"].pop(),
        lambda state: state["param_groups"][0].update(params=[0, 1]),
        lambda state: state["param_groups"][0].update(lr="fast"),
        lambda state: state["param_groups"][0].update(betas=[0.9]),
        lambda state: state["param_groups"][0].update(betas=(5.0, -1.0)),
        lambda state: state["param_groups"][0].update(weight_decay=torch.inf),
        lambda state: state["param_groups"][0].update(lr=torch.nan),
        lambda state: state["param_groups"][0].pop("weight_decay"),
    ],
)
def test_an_optimizer_of_another_form_is_refused(damage):
    optimizer = small_optimizer()
    check_optimizer_state(optimizer.state_dict(), optimizer)
    state = small_optimizer().state_dict()
    damage(state)
    with pytest.raises(ValueError):
        check_optimizer_state(state, optimizer)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adafactor, torch.optim.RMSprop, torch.optim.Adagrad])
def test_every_optimizer_knows_its_own_state(kind):
    """Adafactor's rows and columns have other shapes than their parameter."""
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = kind([parameter], lr=0.1)
    (parameter * 2).sum().backward()
    optimizer.step()
    check_optimizer_state(optimizer.state_dict(), optimizer)


def test_a_schedule_of_another_form_is_refused():
    scheduler = drops_at(small_optimizer(), [3])
    state = scheduler.state_dict()
    check_scheduler_state(state, scheduler, steps=0)
    for change in (
        {"last_epoch": None},
        {"base_lrs": [0.1]},
        {"base_lrs": "fast"},
        {"base_lrs": [torch.nan] * 2},
        {"last_epoch": 7},
    ):
        with pytest.raises(ValueError):
            check_scheduler_state({**state, **change}, scheduler, steps=6)


def test_a_schedule_that_waits_for_a_plateau_goes_on(settings, boxes_data, tmp_path):
    changes = {"lr_scheduler_type": "reduce_lr_on_plateau", "data": str(boxes_data)}
    changes |= {"eval_strategy": "steps", "eval_steps": 1, "ema_decay": None}
    train([str(settings(tmp_path / "out", **changes))])
    train([str(settings(tmp_path / "out", **changes, max_steps=3, resume_from_checkpoint=True))])
    assert [line["step"] for line in history(tmp_path / "out") if "loss" in line] == [1, 2, 3]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_schedule_before_its_first_evaluation_knows_its_own_state(mode):
    """Its best is infinite; where it is to be the least, that is no state of one where it is to be the greatest."""
    scheduler = ReduceLROnPlateau(small_optimizer(), mode)
    check_scheduler_state(scheduler.state_dict(), scheduler, steps=0)
    with pytest.raises(ValueError, match=r"is -?inf"):
        check_scheduler_state({"last_epoch": 0, "best": -scheduler.best}, scheduler, steps=0)


def test_what_a_checkpoint_does_not_know_of_is_saved_too(stopped, settings):
    """As early stopping that was asked for when the run went on."""
    file = stopped / "checkpoint-2" / "trainer_state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "stateful_callbacks": {}}))
    (stopped / "checkpoint-2" / MANIFEST).unlink()
    train([str(settings(stopped, resume_from_checkpoint=True, max_steps=3))])
    assert fault_of(stopped / "checkpoint-3") is None


@pytest.mark.skipif(resource is None, reason="files have no limit of size here")
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_disk_that_takes_no_more_is_one_sentence_and_keeps_what_there_is(
    settings, tmp_path, monkeypatch, capsys, name
):
    """safetensors and PyTorch tell it each in their own way."""
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_second_on_a_full_disk(trainer, *args, **kwargs):
        if trainer.state.global_step == 2:
            size = (out / "checkpoint-1" / name).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
        try:
            return save(trainer, *args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    save = DetectionTrainer._save_checkpoint
    monkeypatch.setattr(DetectionTrainer, "_save_checkpoint", save_second_on_a_full_disk)
    assert ddetr(["train", str(settings(out, ema_decay=None))]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"ddetr train: error: {out}/checkpoint-2 could not be written (")
    assert "go on with --resume_from_checkpoint true" in error
    assert not (out / "checkpoint-2").exists()
    assert newest_whole_checkpoint(out) == out / "checkpoint-1"


@pytest.mark.parametrize(
    ("error", "is_a_writers"), [(RuntimeError, True), (ValueError, False)], ids=["PyTorch's own", "another's"]
)
def test_only_the_writers_error_is_one_of_writing(tmp_path, error, is_a_writers):
    with pytest.raises(OSError if is_a_writers else ValueError, match="iostream"), writing(tmp_path / "checkpoint-1"):
        raise error("basic_ios::clear: iostream error")


def test_a_disk_that_is_full_at_the_end_leaves_no_half_detector(finished, stopped, settings, monkeypatch, capsys):
    def save_half(model, folder, **kwargs):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DeformableDetrRefineForObjectDetection, "save_pretrained", save_half)
        assert ddetr(["train", str(settings(stopped, resume_from_checkpoint=True))]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"is full, so {stopped} is not finished, and what was written before it is kept: make room, and go" in error
    assert sorted(path.name for path in stopped.iterdir()) == ["checkpoint-1", "checkpoint-2", "settings.yaml"]
    train([str(settings(stopped, resume_from_checkpoint=True))])
    assert largest_difference(weights(stopped), weights(finished)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": torch.tensor(torch.nan)},
        {"step": torch.tensor(-1.0)},
        {"exp_avg": torch.full((3,), torch.inf)},
        {"exp_avg_sq": torch.tensor([1.0, -1e-9, 1.0])},
    ],
)
def test_optimizer_state_that_no_step_writes_is_refused(wrong):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg_sq"] = saved["state"][0]["exp_avg_sq"].double()  # becomes the parameter's type
    check_optimizer_state(saved, optimizer)
    saved["state"][0].update(wrong)
    with pytest.raises(ValueError, match="holds what no step writes"):
        check_optimizer_state(saved, optimizer)
