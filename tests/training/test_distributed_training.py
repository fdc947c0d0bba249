"""Several processes over gloo against one, and a killed run against one that was never stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.training_runs import history, largest_difference, launch, log_of, run, weights

from deformable_detr_refine.training.checkpoints import newest_whole_checkpoint


def first_steps(folder, name: str) -> list[float]:
    return [line[name] for line in history(folder) if name in line and "loss_cls" in line]


@pytest.mark.slow
def test_two_processes_of_two_images_are_one_of_four(settings_file, tmp_path):
    """Two steps, an image without boxes among theirs; a third, uneven one would hold other images by each way."""
    run(settings_file(tmp_path / "one", max_steps=2))
    settings = settings_file(tmp_path / "two", max_steps=2, per_device_train_batch_size=2)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*start, "deformable_detr_refine.training.train", str(settings)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("loss", "loss_cls", "enc_loss_iou", "grad_norm"):
        assert first_steps(tmp_path / "one", name) == pytest.approx(first_steps(tmp_path / "two", name), rel=2e-3), name
    assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-4
    one, two = (history(tmp_path / name) for name in ("one", "two"))
    metrics = [{k: v for k, v in line.items() if "AP" in k or k == "eval_loss"} for line in (one[-1], two[-1])]
    assert "eval_AP" in metrics[0] and metrics[0] == pytest.approx(metrics[1], abs=2e-3)


@pytest.mark.slow
def test_six_processes_train_and_evaluate(settings_file, tmp_path):
    """More processes than validation images: some ranks evaluate nothing, and every image counts once."""
    changes = {"per_device_train_batch_size": 1, "num_train_epochs": 1}
    run(settings_file(tmp_path / "six", **changes), processes=6)
    run(settings_file(tmp_path / "again", model=str(tmp_path / "six"), model_config={}, learning_rate=1e-20))
    six, again = (history(tmp_path / name)[-1] for name in ("six", "again"))
    assert six["eval_AP"] == pytest.approx(again["eval_AP"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_killed_and_resumed_is_never_stopped(settings_file, tmp_path):
    """Random augmentation and a moving average; killed with -9 as soon as the second checkpoint is whole.

    Two processes; one process goes on in test_resume.py.
    """
    changes = {
        "num_train_epochs": 4,
        "augmentation": "light",
        "per_device_train_batch_size": 2,
        "ema_decay": 0.9,
        "dataloader_num_workers": 1,
        "lr_drop_epochs": [3],
    }
    run(settings_file(tmp_path / "straight", **changes), processes=2)
    stopped = tmp_path / "stopped"
    settings = settings_file(stopped, **changes)
    ranks = launch(settings, processes=2)
    try:
        deadline = time.monotonic() + 300
        while (checkpoint := newest_whole_checkpoint(stopped)) is None or checkpoint.name == "checkpoint-3":
            alive = all(rank.is_alive() for rank in ranks)
            assert alive and time.monotonic() < deadline, log_of(settings).read_text()[-3000:]
            time.sleep(0.02)
    finally:
        for pid in [pid for rank in ranks for pid in family(rank.pid)]:
            os.kill(pid, signal.SIGKILL)
        for rank in ranks:
            rank.join()
    assert not (stopped / "model.safetensors").exists()
    run(settings_file(stopped, resume_from_checkpoint=True, **changes), processes=2)
    assert largest_difference(weights(tmp_path / "straight"), weights(stopped)) == 0
    for checkpoint in (tmp_path / "straight").glob("checkpoint-*"):
        raw = (
            weights(folder, f"{checkpoint.name}/training_weights.safetensors")
            for folder in (checkpoint.parent, stopped)
        )
        assert largest_difference(*raw) == 0
    straight, resumed = (history(folder) for folder in (tmp_path / "straight", stopped))
    assert [line.get("loss") for line in straight] == [line.get("loss") for line in resumed]
    assert straight[-1]["eval_AP"] == resumed[-1]["eval_AP"]


def family(pid: int) -> list[int]:
    """A process and all below it, children first."""
    children = []
    for line in os.popen(f"ps -o pid= --ppid {pid}").read().split():
        children += family(int(line))
    return [*children, pid]
