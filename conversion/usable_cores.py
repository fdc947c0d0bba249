"""How many cores there are to compute with."""

import os


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has.

    Example:
        >>> usable_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["usable_cores"]
