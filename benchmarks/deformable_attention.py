"""Times deformable attention on this machine's CPU against the `grid_sample` form, and prints Markdown tables.

    python benchmarks/deformable_attention.py              # all shapes, one and two threads: about four minutes
    python benchmarks/deformable_attention.py --rounds 3 --threads 1

Each round runs every backend once in turn, so that whatever else the machine does falls on all of them; the ratio is
of the minima. An 800 x 1333 image, batch 1, fp32: 22,223 tokens, 8 heads, 4 levels, 4 points, 32 channels.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timing import resident, write_numbers

from deformable_detr_refine.modeling.ops import deformable_attention, use_backend
from deformable_detr_refine.modeling.ops_reference import deformable_attention_reference

LEVELS = [(100, 167), (50, 84), (25, 42), (13, 21)]
HEADS, POINTS, CHANNELS = 8, 4, 32
TOKENS = sum(h * w for h, w in LEVELS)
BACKENDS = ("reference", "torch", "c")
# A model's encoder, where a pixel looks around itself in each level; as bad for caches as can be; a model's decoder.
SHAPES = {"encoder, around the pixel": TOKENS, "encoder, anywhere": TOKENS, "decoder, 300 queries": 300}


def inputs(shape: str) -> tuple[torch.Tensor, list[tuple[int, int]], torch.Tensor, torch.Tensor]:
    """Value (1, S, H, C), the levels, locations (1, Q, H, L, P, 2) and weights (1, Q, H, L, P)."""
    torch.manual_seed(0)
    queries = SHAPES[shape]
    value = torch.randn(1, TOKENS, HEADS, CHANNELS)
    locations = torch.rand(1, queries, HEADS, len(LEVELS), POINTS, 2)
    if shape == "encoder, around the pixel":
        centres = [
            torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1) for h, w in LEVELS
        ]
        sizes = torch.tensor([(w, h) for h, w in LEVELS]).view(1, 1, 1, -1, 1, 2)
        locations = torch.cat(centres).view(1, -1, 1, 1, 1, 2) + 2 * torch.randn(locations.shape) / sizes
    weights = torch.rand(1, queries, HEADS, len(LEVELS) * POINTS).softmax(-1).view(1, queries, HEADS, -1, POINTS)
    return value, LEVELS, locations, weights


def forward(value, levels, locations, weights) -> None:
    with torch.inference_mode():
        deformable_attention(value, levels, locations, weights)


def forward_and_backward(value, levels, locations, weights) -> None:
    leaves = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    output = deformable_attention(leaves[0], levels, *leaves[1:])
    torch.autograd.grad(output, leaves, torch.ones_like(output))


def timed(function: Callable, backend: str, arguments: tuple) -> float:
    """Milliseconds."""
    with use_backend(backend):
        start = time.perf_counter()
        function(*arguments)
        return (time.perf_counter() - start) * 1e3


def times_table(threads: list[int], rounds: int) -> tuple[list[str], list[dict]]:
    """Markdown, and the minima in milliseconds."""
    numbers = []
    lines = ["| shape | pass | threads | " + " | ".join(f"{name}, ms" for name in BACKENDS) + " | c is faster by |"]
    lines.append("|---|---|---|" + "---|" * (len(BACKENDS) + 1))
    for shape in SHAPES:
        arguments = inputs(shape)
        for count in threads:
            torch.set_num_threads(count)
            for name, function in (("forward", forward), ("forward + backward", forward_and_backward)):
                found = {backend: [] for backend in BACKENDS}
                for _ in range(rounds + 1):
                    for backend in BACKENDS:
                        # The quick one more often: its minimum needs it, and its share of the time is small.
                        found[backend] += [
                            timed(function, backend, arguments) for _ in range(4 if backend == "c" else 1)
                        ]
                best = {backend: min(times) for backend, times in found.items()}
                cells = [f"{best[backend]:.1f} ({statistics.median(found[backend]):.1f})" for backend in BACKENDS]
                ratio = f"**{best['reference'] / best['c']:.1f}x**"
                lines.append(f"| {shape} | {name} | {count} | " + " | ".join([*cells, ratio]) + " |")
                numbers.append({"shape": shape, "pass": name, "threads": count, "milliseconds": best})
                print(lines[-1], file=sys.stderr)
    return lines, numbers


def errors_table() -> list[str]:
    """Norm of the difference to the fp64 specification, over its norm."""
    value, levels, locations, weights = inputs("encoder, around the pixel")
    grad_output = torch.randn(1, TOKENS, HEADS * CHANNELS)

    def results(function, dtype):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (value, locations, weights)]
        output = function(leaves[0], levels, *leaves[1:])
        return output.detach(), *torch.autograd.grad(output, leaves, grad_output.to(dtype))

    exact = results(deformable_attention_reference, torch.float64)
    lines = ["| backend | output | gradient of value | of locations | of weights |", "|---|---|---|---|---|"]
    for backend in BACKENDS:
        with use_backend(backend):
            found = results(deformable_attention, torch.float32)
        cells = [f"{((f - e).norm() / e.norm()).item():.1e}" for f, e in zip(found, exact, strict=True)]
        lines.append(f"| {backend} | " + " | ".join(cells) + " |")
    return lines


def _peak(backend: str, queue) -> None:
    arguments = inputs("encoder, around the pixel")
    with use_backend(backend):  # small, so that libraries are loaded and threads started
        forward_and_backward(arguments[0], LEVELS, arguments[2][:, :300], arguments[3][:, :300])
    before = resident("VmRSS")
    timed(forward_and_backward, backend, arguments)
    queue.put(resident("VmHWM") - before)


def memory_table() -> list[str]:
    """What forward and backward add to a process's resident memory at most, their results (79 MB) included."""
    context = multiprocessing.get_context("spawn")
    lines = ["| backend | added peak memory, MB |", "|---|---|"]
    for backend in BACKENDS:
        queue = context.SimpleQueue()
        child = context.Process(target=_peak, args=(backend, queue))
        child.start()
        lines.append(f"| {backend} | {queue.get() * 1024 / 1e6:.0f} |")
        child.join()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    print(f"Minimum (median) of {arguments.rounds + 1} rounds.\n")
    times, numbers = times_table(arguments.threads, arguments.rounds)
    tables = [times, errors_table()]
    if sys.platform == "linux":
        tables.append(memory_table())
    print("\n\n".join("\n".join(lines) for lines in tables))
    write_numbers(arguments.numbers, {"times": numbers})


if __name__ == "__main__":
    main()
