"""Interleaved timing: each round runs every candidate once, so that a busy moment of the machine falls on all."""

import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, by name; a first round, which fills caches, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for counted in [False] + [True] * rounds:
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            if counted:
                times[name].append(time.perf_counter() - start)
    return times


def table(times: dict[str, list[float]], peers: dict[str, str]) -> str:
    """Markdown: minimum and median in seconds, and how much faster than its peer each is, by the minima."""
    rows = ["| | minimum, s | median, s | faster than its peer |", "|---|---|---|---|"]
    for name, runs in times.items():
        peer = peers.get(name)
        ratio = f"**{min(times[peer]) / min(runs):.2f}x** ({peer})" if peer else ""
        rows.append(f"| {name} | {min(runs):.3f} | {statistics.median(runs):.3f} | {ratio} |")
    return "\n".join(rows)


def machine() -> str:
    """The processor and the versions that a figure belongs to."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "timm"))
    return f"{model[1] if model else platform.machine()}, Python {platform.python_version()}, {packages}"


def resident(name: str) -> int:
    """Kilobytes of this process's memory now ('VmRSS') or at most so far ('VmHWM'); Linux."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
