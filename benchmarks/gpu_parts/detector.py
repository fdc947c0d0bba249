"""The blood-cell detector, trained for real in bfloat16 by what `ddetr train` is made of, until its time is used."""

import math
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback, set_seed

from deformable_detr_refine.data.augmentation.recipe import training_transform
from deformable_detr_refine.data.examples import Examples
from deformable_detr_refine.modeling.size_rules import checked_size, nearest_edges
from deformable_detr_refine.training.model import build_model, build_processor
from deformable_detr_refine.training.run_data import read_run_data
from deformable_detr_refine.training.settings import read_settings
from deformable_detr_refine.training.trainer import DetectionTrainer

from .report import SAMPLES, Report, Session

# For the evaluation and for writing the detector.
KEPT_SECONDS = 40


class ByTheClock(TrainerCallback):
    """Ends training when its time is used; the learning rate falls with the time as a cosine."""

    def __init__(self, seconds: float, warmup_steps: int) -> None:
        self.seconds, self.warmup_steps = seconds, warmup_steps
        self.losses: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.begun = time.monotonic()

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs) -> None:
        share = min(1.0, (time.monotonic() - self.begun) / self.seconds)
        factor = min(1.0, (state.global_step + 1) / self.warmup_steps) * (1 + math.cos(math.pi * share)) / 2
        assert optimizer is not None
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop = time.monotonic() - self.begun > self.seconds

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def run(session: Session, report: Report) -> None:
    begun = time.monotonic()
    settings = read_settings([str(settings_file(session))])
    model_args, data_args, args = settings
    set_seed(args.seed)
    found = read_run_data(data_args, print)
    processor = build_processor(model_args, data_args)
    edges = nearest_edges(checked_size(processor.size))
    transform = training_transform(data_args.augmentation, *edges, vertical_flip=data_args.vertical_flip)
    model, origin = build_model(model_args, found.data.label_map)
    examples = Examples(found.train, processor, transform, args.seed)
    validation = Examples(found.train if found.validation is None else found.validation, processor)
    seconds = 3 if session.tiny else max(10, session.limit - KEPT_SECONDS - (time.monotonic() - begun))
    clock = ByTheClock(seconds, 2 if session.tiny else 100)
    trainer = DetectionTrainer(model, args, examples, validation)
    trainer.add_callback(clock)
    report.table(f"{origin} {len(examples)} images to train on, {len(validation)} to evaluate on", "", "")
    trainer.train()
    steps = trainer.state.global_step
    report.row("steps", steps)
    report.row("images/s, the loader's included", steps * args.train_batch_size / seconds)
    report.row("loss, of the first steps and of the last", f"{clock.losses[0]:.4g}, {clock.losses[-1]:.4g}")
    if session.device == "cuda":
        report.row("most memory of the GPU, GB", torch.cuda.max_memory_allocated() / 1e9)
    # Not a loss that falls: where samples/'s detector goes on, there is little to learn.
    if not all(map(math.isfinite, clock.losses)):
        report.wrong("A loss of the training was not finite.")
    trainer.save_model(str(session.trained))
    metrics = trainer.evaluate()
    report.row("AP, AP50", f"{metrics['eval_AP']:.4f}, {metrics['eval_AP50']:.4f}")
    report.row("with the set-up, s", time.monotonic() - begun)


def settings_file(session: Session) -> Path:
    """The recipe of samples/blood-cells, for the data that there are and for a GPU."""
    settings: dict[str, Any] = yaml.safe_load((SAMPLES / "blood-cells" / "settings.yaml").read_text())
    for name in ("backbone_weights", "model_config", "warmup_steps", "num_train_epochs"):
        if session.backbone_weights is None or name not in ("backbone_weights", "model_config"):
            del settings[name]
    if session.backbone_weights is None:
        settings["model"] = str(SAMPLES / "blood-cells")
    else:
        settings |= {"backbone_weights": str(session.backbone_weights), "learning_rate": 4e-4}
    settings |= {
        "data": str(session.data or SAMPLES / "annotations" / "blood_cells.json"),
        "output_dir": str(session.work / "training"),
        "use_cpu": session.tiny,
        "lr_scheduler_type": "constant",
        "max_steps": 1_000_000,
        "per_device_train_batch_size": 2 if session.tiny else 8,
        "dataloader_num_workers": 0 if session.tiny else 8,
        "ema_decay": 0.99 if session.tiny else 0.999,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1 if session.tiny else 20,
        "disable_tqdm": True,
    }
    if session.tiny:
        settings |= {"shortest_edge": 96, "longest_edge": 128}
    file = session.work / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file
