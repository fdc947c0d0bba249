"""MMDetection's optimiser settings: which parameters learn slower, and when the learning rate drops."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    learning_rate: float,
    weight_decay: float,
    slow_parameters: Sequence[str],
    slow_factor: float,
) -> list[dict]:
    """Two groups for an optimiser, of what takes a gradient: `slow_parameters` are parts of names.

    Source: paramwise_cfg of configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py. Weight decay is of all
    parameters, norms and biases too, as there.

    Example:
        >>> import torch
        >>> named = [("backbone.w", nn.Parameter(torch.ones(1))), ("head.w", nn.Parameter(torch.ones(1)))]
        >>> [(group["name"], group["lr"]) for group in parameter_groups(named, 1.0, 0.0, ["backbone"], 0.5)]
        [('main', 1.0), ('slow', 0.5)]
    """
    main, slow = [], []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (slow if any(part in name for part in slow_parameters) else main).append(parameter)
    groups = [
        {"name": "main", "params": main, "lr": learning_rate, "weight_decay": weight_decay},
        {"name": "slow", "params": slow, "lr": learning_rate * slow_factor, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def drops_at(optimizer: Optimizer, drop_steps: Sequence[int], warmup_steps: int = 0, factor: float = 0.1) -> LambdaLR:
    """The learning rate rises evenly over the warm-up and is multiplied by `factor` at each of the steps."""

    def share(step: int) -> float:
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return warmup * factor ** bisect_right(sorted(drop_steps), step)

    return LambdaLR(optimizer, share)


def scaled_learning_rate(learning_rate: float, meant_for: int, images_per_step: int) -> float:
    """The linear rule: a learning rate meant for one number of images a step, for another.

    Source: auto_scale_lr of MMDetection (base_batch_size=32); Goyal et al., arXiv:1706.02677.

    Example:
        >>> scaled_learning_rate(2e-4, meant_for=32, images_per_step=8)
        5e-05
    """
    return learning_rate * images_per_step / meant_for


def continue_schedule(scheduler: Any, base_rates: Sequence[float] | None = None) -> None:
    """Sets the learning rates to what the schedule, as it is now, says for the step it is at.

    Where a run goes on as it was, these are the rates that it had. Where it was given more epochs, the schedule is
    the longer one's, while the optimiser of the checkpoint still has the shorter one's rates; and where it was given
    another learning rate, that of each group of parameters is in `base_rates`.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = LambdaLR(optimizer, lambda step: 0.5 ** step)
        >>> optimizer.param_groups[0]["lr"] = 0.0
        >>> continue_schedule(scheduler)
        >>> optimizer.param_groups[0]["lr"]
        1.0
    """
    if not isinstance(scheduler, LambdaLR):
        return
    scheduler.base_lrs = list(base_rates or scheduler.base_lrs)
    rates = [
        rate * share(scheduler.last_epoch) for rate, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
