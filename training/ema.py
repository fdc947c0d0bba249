"""An exponential moving average of the weights: smoother than the last step's, and what is evaluated and saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from .saved_state import check_weights, reading
from .sharded import copy_whole, own_part, whole

RAW_WEIGHTS = "training_weights.safetensors"


class MovingAverage(TrainerCallback):
    """Follows the trained parameters of a model, step by step; a callback of the Trainer.

    The decay rises from 0 to `decay`, as min(decay, (1 + n) / (10 + n)) after n steps, so that the average forgets the
    beginning. A checkpoint's model.safetensors holds the average, beside it `training_weights.safetensors` the raw
    weights from which training goes on (MMDetection's EMAHook does the same with `state_dict` and `ema_state_dict`).

    Args:
        model: the model itself, not wrapped in DDP; FSDP2 may keep it in shards.
        decay: below 1; 0.999 looks back over about 1,000 steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay={decay} is not from 0 to below 1.")
        self.model, self.decay, self.steps = model, decay, 0
        self.average: dict[str, torch.Tensor] = {}  # empty where nothing trains

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.steps = state.global_step
        if not self.average:  # else it came with the checkpoint
            self.average = {name: parameter.detach().clone() for name, parameter in self._trained()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        names, parameters = zip(*self._trained(), strict=True)
        # PyTorch's own optimisers take the same, which is in no __all__.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [own_part(self.average[name]) for name in names], [own_part(p) for p in parameters], 1 - decay
        )

    @torch.no_grad()
    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Leaves the model with its average, unless the Trainer has just given it the best checkpoint's."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            for name, parameter in self._trained():
                parameter.copy_(self.average[name])
        self.average = {}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights; afterwards its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if self.average:
            for name, parameter in self._trained():
                kept = parameter.clone()
                parameter.copy_(self.average[name])
                self.average[name].copy_(kept)

    def save_raw(self, folder: Path, writes: bool = True) -> None:
        """Within `applied`, writes the raw weights, which `average` holds meanwhile; all come here, one writes."""
        raw = {name: whole(tensor).cpu() for name, tensor in self.average.items()}
        if writes:
            save_file(raw, folder / RAW_WEIGHTS)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """After the model has loaded a checkpoint's averaged weights: keep them, and give the model the raw ones.

        Raises:
            FileNotFoundError: the checkpoint was written without an average.
            ValueError: its raw weights are damaged, or of other parameters.
        """
        if not (folder / RAW_WEIGHTS).is_file():
            raise FileNotFoundError(
                f"{folder} has no {RAW_WEIGHTS}: it was trained without ema_decay, resume it without or start anew."
            )
        with reading(folder / RAW_WEIGHTS):
            check_weights(folder / RAW_WEIGHTS, dict(self._trained()))
            raw = load_file(folder / RAW_WEIGHTS)
        self.average = {name: parameter.detach().clone() for name, parameter in self._trained()}
        for name, parameter in self._trained():
            copy_whole(parameter, raw[name])
