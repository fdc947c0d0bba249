"""What there is to compute with: cores and devices."""

import math
import os
import platform
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A container's share of the machine's time: how many microseconds in how many.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has; a container's quota counts.

    Example:
        >>> usable_cores() >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (int(word) for word in _QUOTA.read_text().split())
    except (OSError, ValueError):  # no container, or its quota is "max"
        return cores
    return max(min(cores, math.ceil(quota / period)), 1)


def idle_cores() -> float | None:
    """Cores of the machine that nobody wanted in the last minute; None where the system does not tell."""
    return max((os.cpu_count() or 1) - os.getloadavg()[0], 0.0) if hasattr(os, "getloadavg") else None


def choose_device(name: str) -> "torch.device":
    """The device of that name; 'auto' is the accelerator if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        why = f" ({reason})" if len(reason) < 60 else ""  # longer ones list what PyTorch is made of
        raise ValueError(f"There is no device {name} here{why}: give cpu, cuda, cuda:1, mps or auto.") from error
    return device


def warn_of_slow_numbers(dtype: "torch.dtype", device: "torch.device") -> None:
    """Warns of bfloat16 on a processor without instructions for it, which computes it by way of float32."""
    import torch

    if dtype != torch.bfloat16 or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        warnings.warn(
            "This processor has no instructions for bfloat16 (avx512_bf16, amx), in which a detector takes two to four "
            "times as long as in float32 here; `ddetr benchmark` measures it.",
            stacklevel=1,  # one place, so that it is told once
        )


__all__ = ["choose_device", "idle_cores", "usable_cores", "warn_of_slow_numbers"]
