"""What of a Trainer writes and reads: checkpoints that a run goes on from, bit for bit, and the model's folder."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from deformable_detr_refine.files import follow_umask, new_files
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection

from .arguments import DetectionTrainingArguments
from .checkpoints import read_trainer_state, write_manifest, writing
from .ema import RAW_WEIGHTS, MovingAverage
from .loss_terms import LossTerms
from .optimizer import continue_schedule
from .saved_state import check_config, check_optimizer_state, check_scheduler_state, check_weights, reading
from .sharded import whole_model


class ResumableTrainer(Trainer):
    """transformers' Trainer, whose checkpoints hold averaged and raw weights, are whole or absent, and are checked.

    `ema` is the moving average, if there is one; `_terms` does not count the time that writing takes.
    """

    if TYPE_CHECKING:
        args: DetectionTrainingArguments
        model: DeformableDetrRefineForObjectDetection
        optimizer: Any

    ema: MovingAverage | None = None
    _terms: LossTerms

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the model has the averaged weights, where there is an average."""
        with self.ema.applied() if self.ema else nullcontext():
            yield

    @contextmanager
    def _whole_model(self) -> Iterator[DeformableDetrRefineForObjectDetection]:
        """Within the block `model` has all its weights in each process, also where FSDP2 keeps it in shards.

        Processes may then run it as often as each likes, and it is saved under its class's own name.
        """
        model = self.model
        if self.is_fsdp_enabled:
            self.model = whole_model(model)
        try:
            yield self.model
        finally:
            self.model = model

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self._terms.paused(), writing(folder, half=folder):
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_manifest(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        # A checkpoint that is not whole gives way; in the run's folder every file is whole.
        aside = self.args.should_save and folder == Path(self.args.output_dir)
        place = new_files(folder) if aside else nullcontext(folder)
        # The state dict that some engines hand over is of the raw weights. All ranks come here, one writes.
        with self.averaged_weights(), self._whole_model(), writing(folder), place as new:
            super()._save(str(new), None if self.ema or self.is_fsdp_enabled else state_dict)
            if self.ema and self.is_in_train:
                self.ema.save_raw(folder, self.args.should_save)
        if self.args.should_save:
            follow_umask(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # FSDP2 writes its own file of the weights there, which are to be the same as in model.safetensors.
        with self.averaged_weights() if self.is_fsdp_enabled else nullcontext():
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        with reading(folder / TRAINER_STATE_NAME):
            read_trainer_state(folder)
        if not self.ema and (folder / RAW_WEIGHTS).is_file():
            raise ValueError(
                f"{resume_from_checkpoint} was trained with ema_decay: resume it with the same, or start anew."
            )
        check_config(folder, self.model.config)
        if (file := folder / SAFE_WEIGHTS_NAME).is_file():
            with reading(file), self._whole_model() as whole:
                check_weights(file, whole.state_dict())
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ema:
            self.ema.load(folder)

    def _init_training_state(self, *args: Any) -> tuple[int, int]:
        begun = super()._init_training_state(*args)
        # Steps between logs, evaluations and checkpoints are this run's, else they stay those of the checkpoint's run.
        self.state.compute_steps(self.args, args[0])
        # transformers looks for each of these when it saves; a checkpoint knows those of its own run.
        known = cast("dict[str, Any]", self.state.stateful_callbacks)  # which it has made of its list
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                known.setdefault(type(callback).__name__, callback.state())
        # After the last of --max_steps transformers would make one more, in the epoch that it is in.
        return (args[2], 0) if self.state.global_step >= self.state.max_steps else begun

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        rates = getattr(self.lr_scheduler, "base_lrs", None)
        if checkpoint is None or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None:
                continue_schedule(self.lr_scheduler, rates)
            return
        optimizer_file, schedule_file = (Path(checkpoint) / name for name in (OPTIMIZER_NAME, SCHEDULER_NAME))
        with reading(optimizer_file):
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # within accelerate's
            check_optimizer_state(torch.load(optimizer_file, "cpu", weights_only=True), optimizer)
        with reading(schedule_file):
            steps = read_trainer_state(Path(checkpoint)).global_step
            check_scheduler_state(torch.load(schedule_file, "cpu", weights_only=True), self.lr_scheduler, steps)
            super()._load_optimizer_and_scheduler(checkpoint)
            # A checkpoint at its schedule's end holds a rate of 0, and a longer run would take its first step at that.
            continue_schedule(self.lr_scheduler, rates)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        with reading(Path(checkpoint or "") / f"rng_state{rank}.pth"):
            super()._load_rng_state(checkpoint)
