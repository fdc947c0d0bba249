"""What there is to compute with: cores and devices."""

import os

import torch


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has.

    Example:
        >>> usable_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """The device of that name; 'auto' is the accelerator if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"There is no device {name} here ({reason}); --device auto takes the best there is."
        ) from error
    return device


__all__ = ["choose_device", "usable_cores"]
