"""What is made of timed runs: tables and files; and the machine that they were timed on."""

import json
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from deformable_detr_refine.evaluation.timing import Runs, interleaved, resident


def table(times: Mapping[str, Runs], peers: Mapping[str, Sequence[str]]) -> str:
    """Markdown: minimum and median in seconds, and how much faster than its peers each is, by the minima."""
    rows = ["| | minimum, s | median, s | faster than its peer |", "|---|---|---|---|"]
    for name, runs in times.items():
        if not runs:
            rows.append(f"| {name} | not measured: {runs.reason} | | |")
            continue
        ratios = [f"{speed_up(times, name, peer)} ({peer})" for peer in peers.get(name, ()) if times[peer]]
        rows.append(f"| {name} | {min(runs):.3f} | {statistics.median(runs):.3f} | {', '.join(ratios)} |")
    return "\n".join(rows)


def speed_up(times: Mapping[str, Runs], name: str, peer: str) -> str:
    """How much faster than its peer, by the minima; empty where either was not measured."""
    return f"**{min(times[peer]) / min(times[name]):.2f}x**" if times[peer] and times[name] else ""


def write_numbers(file: Path | None, numbers: dict) -> None:
    """For the plot: what a script measured, as JSON, when it was asked for a file."""
    if file is not None:
        file.write_text(json.dumps(numbers))


def machine() -> str:
    """The processor and the versions that a figure belongs to."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.+)", text)
    cores = len(re.findall(r"^processor", text, re.MULTILINE))
    cores = f", {cores} cores" if cores else ""
    half = [name for name in ("avx512_bf16", "amx_bf16") if re.search(rf"\b{name}\b", text)]
    half = f" with {' and '.join(half)}" if half else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "timm"))
    return f"{model[1] if model else platform.machine()}{cores}{half}, Python {platform.python_version()}, {packages}"


def forward_alone(model: str, shapes: Sequence[tuple[int, int]], rounds: int = 5) -> str:
    """A sentence on how many images/s the forward pass alone makes of photos of these sizes on one thread, at best."""
    import torch

    from deformable_detr_refine.inference.load_detector import load_detector

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    detector, processor = load_detector(model, "cpu")
    pixels = [torch.randn(1, 3, *processor.resized_shape(*shape)) for shape in shapes]

    def all_of_them() -> None:
        with torch.inference_mode():
            for image in pixels:
                detector(image)

    seconds = min(interleaved({"forward": all_of_them}, rounds)["forward"])
    torch.set_num_threads(threads)
    return f"The forward pass alone, on one thread: {len(pixels) / seconds:.2f} images/s."


def shape_of(size: str) -> tuple[int, int]:
    """(height, width) of a size as it stands on the command line, like 800x1333."""
    height, width = map(int, size.split("x"))
    return height, width


__all__ = [
    "Runs",
    "forward_alone",
    "interleaved",
    "machine",
    "resident",
    "shape_of",
    "speed_up",
    "table",
    "write_numbers",
]
