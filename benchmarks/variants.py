"""Other ways to run the same inference, beside fp32 as it stands: bfloat16, and torch.compile with dynamic shapes.

    python benchmarks/variants.py                     # bfloat16, by autocast and as the weights' type
    python benchmarks/variants.py --compile           # torch.compile: minutes, and a C++ compiler

Interleaved with plain fp32, which is the peer of every row. What bfloat16 costs in accuracy is a question to a trained
detector (`ddetr evaluate --dtype bfloat16`): with weights drawn at random the choice of the best 300 flips. Markdown.
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from contenders import inputs, our_detector
from timing import interleaved, shape_of, table, write_numbers

FP32 = "fp32"
AUTOCAST, HALF = "bfloat16 by autocast", "bfloat16 weights"
COMPILED, COMPILED_AUTOCAST = "torch.compile, fp32", "torch.compile, bfloat16 by autocast"


def forward(model: Callable, pixels: torch.Tensor, autocast: bool = False) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(pixels)


def eager(pixels: torch.Tensor) -> dict[str, Callable[[], None]]:
    model = our_detector().eval()
    half = copy.deepcopy(model).to(torch.bfloat16)
    return {
        FP32: lambda: forward(model, pixels),
        AUTOCAST: lambda: forward(model, pixels, autocast=True),
        HALF: lambda: forward(half, pixels.to(torch.bfloat16)),
    }


def compiled(pixels: torch.Tensor) -> tuple[dict[str, Callable[[], None]], list[str]]:
    """The candidates, and how long compiling took and what another size costs, in sentences."""
    model = our_detector().eval()
    candidates, said = {FP32: lambda: forward(model, pixels)}, []
    other = torch.randn(1, 3, pixels.shape[2] * 3 // 4 // 32 * 32, pixels.shape[3] * 3 // 4 // 32 * 32)
    for name, autocast in ((COMPILED, False), (COMPILED_AUTOCAST, True)):
        function = torch.compile(copy.deepcopy(model), dynamic=True, fullgraph=True)
        seconds = []
        for each in (pixels, other, other):
            start = time.perf_counter()
            forward(function, each, autocast)
            seconds.append(time.perf_counter() - start)
        said.append(
            f"{name}: the first call took {seconds[0]:.0f} s, the first at another size "
            f"({other.shape[2]}x{other.shape[3]}) {seconds[1]:.1f} s and the second {seconds[2]:.1f} s."
        )
        candidates[name] = lambda function=function, autocast=autocast: forward(function, pixels, autocast)
    return candidates, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="timed runs of each (default 4)")
    parser.add_argument("--size", default="800x1333", help="height x width (default 800x1333)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of bfloat16 alone")
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pixels = inputs(*shape_of(args.size))["pixel_values"]
    candidates, said = compiled(pixels) if args.compile else (eager(pixels), [])
    times = interleaved(candidates, args.runs)
    print(f"{args.threads} threads, batch 1, {args.size}, inference.\n")
    print(table(times, {name: (FP32,) for name in candidates if name != FP32}))
    print("".join(f"\n{sentence}\n" for sentence in said))
    write_numbers(args.numbers, {name: min(runs) for name, runs in times.items() if runs})


if __name__ == "__main__":
    main()
