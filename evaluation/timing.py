"""Interleaved timing: each round runs every candidate once, so that a busy moment of the machine falls on all."""

import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


class Runs(list[float]):
    """Seconds of each run; when there are none, `reason` says why."""

    reason = "not run"


def interleaved(
    candidates: Mapping[Name, Callable[[], object]], rounds: int, progress: Callable[[], object] | None = None
) -> dict[Name, Runs]:
    """The runs of each, by name; a first round, which fills caches, is not counted.

    A candidate that raises ChildProcessError has no runs; the others go on.

    Args:
        progress: called after every run, the first round's too.

    Example:
        >>> times = interleaved({"sum": lambda: sum(range(100)), "max": lambda: max(range(100))}, rounds=3)
        >>> {name: len(runs) for name, runs in times.items()}
        {'sum': 3, 'max': 3}
    """
    times = {name: Runs() for name in candidates}
    able = list(candidates)
    for counted in [False] + [True] * rounds:
        for name in list(able):
            start = time.perf_counter()
            try:
                candidates[name]()
            except ChildProcessError as error:
                able.remove(name)
                times[name].clear()
                times[name].reason = str(error)
                continue
            if counted:
                times[name].append(time.perf_counter() - start)
            if progress is not None:
                progress()
    return times


def resident(name: str) -> int:
    """Kilobytes of this process's memory now ('VmRSS') or at most so far ('VmHWM'); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


__all__ = ["Runs", "interleaved", "resident"]
