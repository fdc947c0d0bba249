"""What a checkpoint holds is compared with what it is loaded into, before it is loaded.

PyTorch takes an optimiser's tensors as they are: with other shapes its steps read and write beyond their ends, which
ends the process without a word.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.messages import one_line, printable
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

# Counts, and means and sums of squares: of Adam and its kin, RMSprop, Adagrad.
_NEVER_BELOW_0 = ("step", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf")
# What no step of a training goes by: a threshold that is found at its end, ids that detections are written with.
_OF_NO_STEP = {"score_threshold", "category_ids", "int8"}


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Within the block all that is wrong with a file of a checkpoint is one sentence.

    Raises:
        ValueError: something was.
    """
    try:
        yield
    except Exception as error:  # whatever a damaged file may lead to
        reason = printable(one_line(error), 240).rstrip(".")
        raise ValueError(
            f"{file} cannot be gone on from: {reason}. Go on with the settings of the run (its settings.yaml), name an "
            f"earlier checkpoint (--resume_from_checkpoint {file.parent.parent / 'checkpoint-N'}), or start anew, "
            "without --resume_from_checkpoint in a new --output_dir."
        ) from error


def check_config(checkpoint: Path, config: DeformableDetrRefineConfig) -> None:
    """Check that a checkpoint was trained as this model is: with its dropout, matcher, loss and classes, too.

    Raises:
        ValueError: it was not, or its config.json is damaged.
    """
    if not (checkpoint / "config.json").is_file():
        return
    fresh, now = (json.loads(one.to_json_string(use_diff=False)) for one in (DeformableDetrRefineConfig(), config))
    saved = {**fresh, "id2label": now["id2label"], **read_json(checkpoint / "config.json")}
    for name in (*DeformableDetrRefineConfig.__annotations__, "id2label"):
        if saved[name] != now[name] and name not in _OF_NO_STEP:
            before, here = (printable(json.dumps(values[name]), 40) for values in (saved, now))
            raise ValueError(
                f"{checkpoint} was trained with {name} {before}, this run has {here}: go on with the settings of the "
                "run (its settings.yaml), or start anew, without --resume_from_checkpoint in a new --output_dir."
            )


def check_weights(file: Path, expected: Mapping[str, Tensor]) -> None:
    """Check that a file of safetensors holds exactly these tensors; those that share memory stand there once.

    Raises:
        ValueError: it does not.
        SafetensorError: the file is damaged.
    """
    with safe_open(file, "pt") as saved:
        shapes = {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118, no dict
    held = {expected[name].data_ptr() for name in shapes if name in expected}
    for name, tensor in expected.items():
        if name not in shapes and tensor.data_ptr() not in held:
            raise ValueError(f"it lacks {name}")
        if name in shapes and shapes[name] != tuple(tensor.shape):
            raise ValueError(f"{name} has the shape {shapes[name]}, the model's is {tuple(tensor.shape)}")
    if others := sorted(shapes.keys() - expected.keys()):
        raise ValueError(f"it has {printable(others[0])}, which the model lacks")


def check_optimizer_state(saved: Any, optimizer: Optimizer) -> None:
    """Check the state of an optimiser against what its own first step makes for each parameter.

    Args:
        saved: of `optimizer.state_dict()`.
        optimizer: into which it is to be loaded.

    Raises:
        ValueError: it is of another optimiser, or of other parameters.
    """
    groups, states = saved["param_groups"], saved["state"]
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(f"it has {len(groups)} groups of parameters, this run has {len(optimizer.param_groups)}")
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        if len(group["params"]) != len(own["params"]):
            raise ValueError(f"a group has {len(group['params'])} parameters, this run's has {len(own['params'])}")
        for name in own.keys() - {"params", "initial_lr"}:
            is_kept = name in ("weight_decay", "betas", "eps", "momentum")
            if not _same_kind(group.get(name), own[name]) or (is_kept and group[name] != own[name]):
                raise ValueError(
                    f"{name} of a group is {printable(repr(group.get(name)), 40)}, this run's is {own[name]}"
                )
        first_state = cache(lambda shape, dtype, device, own=own: _first_state(optimizer, own, shape, dtype, device))
        for index, parameter in zip(group["params"], own["params"], strict=True):
            if index in states:
                _check_entry(states[index], first_state(parameter.shape, parameter.dtype, parameter.device))


def check_scheduler_state(saved: Any, scheduler: Any, steps: int) -> None:
    """Check the state of a schedule, after so many steps of its run, against its own.

    Raises:
        ValueError: it is of another one.
    """
    own = scheduler.state_dict()
    if not isinstance(saved, dict) or not isinstance(saved.get("last_epoch"), int):
        raise ValueError("it is not the state of a schedule")
    if not 0 <= saved["last_epoch"] <= steps:  # fewer where steps overflowed
        raise ValueError(f"it is of step {printable(str(saved['last_epoch']), 40)}, its run had made {steps}")
    for name in own.keys() & saved.keys():
        if not _same_kind(saved[name], own[name]):
            raise ValueError(f"{name} is {printable(repr(saved[name]), 40)}")


def _first_state(optimizer: Optimizer, group: dict, shape: torch.Size, dtype: torch.dtype, device: Any) -> dict:
    """What this optimiser keeps of a parameter after a step; its tensors are on no device, for their form alone."""
    parameter = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
    parameter.grad = torch.zeros_like(parameter)
    # The options stand in the group, which counts before the defaults of the class.
    kind: Any = type(optimizer)
    fresh = kind([{**group, "params": [parameter]}])
    fresh.step()
    state = fresh.state[parameter]
    return {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in state.items()}


def _check_entry(saved: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if name not in saved:
            raise ValueError(f"the state of a parameter lacks {name}")
        if not isinstance(value, Tensor):
            continue
        tensor = saved[name]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ValueError(f"{name} of a parameter is no tensor")
        if tensor.shape != value.shape:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, its parameter wants {tuple(value.shape)}")
        # Of other floats `load_state_dict` makes the parameter's own.
        if tensor.dtype != value.dtype and not (tensor.is_floating_point() and value.is_floating_point()):
            raise ValueError(f"{name} is of {tensor.dtype}, its parameter wants {value.dtype}")
        if not tensor.isfinite().all() or (name in _NEVER_BELOW_0 and (tensor < 0).any()):
            raise ValueError(f"{name} of a parameter holds what no step writes (NaN, infinity, or less than 0)")


def _same_kind(saved: Any, own: Any) -> bool:
    """Whether a value of a saved state may take the place of the one that is there now."""
    if own is None or isinstance(own, bool | str):  # options that releases of PyTorch add have defaults
        return saved is None or isinstance(saved, bool | int | float | str)
    if isinstance(own, int | float):
        # Of a plateau's schedule, what is worse than all is infinite.
        return isinstance(saved, int | float) and (math.isfinite(saved) or saved == own)
    if isinstance(own, list | tuple):
        return (
            isinstance(saved, list | tuple)
            and len(saved) == len(own)
            and all(_same_kind(*pair) for pair in zip(saved, own, strict=True))
        )
    return type(saved) is type(own)


__all__ = ["check_config", "check_optimizer_state", "check_scheduler_state", "check_weights", "reading"]
