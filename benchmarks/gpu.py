"""Deformable attention on a GPU: checks the Triton backend, times it against its peers and writes GPU.md.

    python benchmarks/gpu.py                # some minutes; status 1 when a result is wrong, 2 without a GPU
    pip install kernels                     # before it, to have the hub's CUDA kernel in the table

The shapes are those of deformable_attention.py: an 800 x 1333 image, batch 1. Each figure is the median of repeated
calls, with the GPU's cache emptied between them, and includes what PyTorch does around the kernels.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from deformable_attention import SHAPES, inputs

TYPES = (torch.float32, torch.float16, torch.bfloat16)
HUB_KERNEL = "kernels-community/deformable-detr"
# Norm of the difference to the fp64 specification over its norm; half types round the output and value's gradient.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
# A location within fp32's reach of a cell's border has the derivative of either side: a few in a hundred thousand.
TOLERANCE_OF_LOCATIONS = 2e-2
# A function, and what surrounds its calls.
Way = tuple[Callable, Callable[[], contextlib.AbstractContextManager]]
RESULTS = ("output", "gradient of value", "of locations", "of weights")


class HubKernel(torch.autograd.Function):
    """The CUDA kernel that stock transformers downloads; it wants all tensors in value's type."""

    kernel: Any = None  # the package that get_kernel gives

    @staticmethod
    def forward(ctx, value, shapes, locations, weights):
        sizes, starts = level_tensors(tuple(shapes), value.device)
        ctx.save_for_backward(value, sizes, starts, locations, weights)
        return HubKernel.kernel.ms_deform_attn_forward(value, sizes, starts, locations, weights, 64)

    @staticmethod
    def backward(ctx, grad_output):
        arguments = *ctx.saved_tensors, grad_output.contiguous(), 64
        grad_value, grad_locations, grad_weights = HubKernel.kernel.ms_deform_attn_backward(*arguments)
        return grad_value, None, grad_locations, grad_weights


@cache
def level_tensors(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = torch.tensor(shapes, device=device)
    return sizes, torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))


def ways() -> dict[str, Way]:
    """Name in the table -> function and what must surround its calls."""
    from deformable_detr_refine.modeling.ops import deformable_attention, use_backend

    ways: dict[str, Way] = {
        "grid_sample": (deformable_attention, lambda: use_backend("reference")),
        "torch": (deformable_attention, lambda: use_backend("torch")),
        "triton": (deformable_attention, lambda: use_backend("triton")),
        "triton, tuned": (deformable_attention, tuned),
    }
    try:
        from kernels import get_kernel  # pyright: ignore[reportMissingImports] (installed by who wants that column)

        HubKernel.kernel = get_kernel(HUB_KERNEL, version=1)
        ways["CUDA"] = (HubKernel.apply, contextlib.nullcontext)
    except Exception as error:  # not installed, not reachable, not built for this system: the table does without
        print(f"Without the CUDA kernel of the hub ({HUB_KERNEL}): {error}", file=sys.stderr)
    return ways


@contextlib.contextmanager
def tuned():
    from deformable_detr_refine.modeling.ops import use_backend

    os.environ["DDETR_TRITON_AUTOTUNE"] = "1"
    try:
        with use_backend("triton"):
            yield
    finally:
        del os.environ["DDETR_TRITON_AUTOTUNE"]


def prepared(name: str, shape: str, dtype: torch.dtype, device: str) -> tuple:
    """Value, the levels, locations and weights as leaves; coordinates in fp32, except for the CUDA kernel."""
    value, levels, locations, weights = inputs(shape)
    rest = dtype if name == "CUDA" else torch.promote_types(dtype, torch.float32)
    value, locations, weights = value.to(device, dtype), locations.to(device, rest), weights.to(device, rest)
    return value.requires_grad_(), levels, locations.requires_grad_(), weights.requires_grad_()


def results(function: Callable, arguments: tuple, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output and the three gradients, for an output's gradient that `dtype` can hold."""
    output = function(*arguments)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(output)
    return [output.detach(), *torch.autograd.grad(output, [arguments[0], *arguments[2:]], grad)]


def errors(ways: dict, shape: str, dtype: torch.dtype, device: str) -> tuple[list[str], list[str]]:
    """Rows of the table of errors, and a sentence for each result of ours that is wrong."""
    from deformable_detr_refine.modeling.ops_reference import deformable_attention_reference

    # The specification of the rounded value, which is what every way is given.
    value, levels, *rest = prepared("grid_sample", shape, dtype, device)
    doubles = [tensor.detach().double().requires_grad_() for tensor in (value, *rest)]
    expected = results(deformable_attention_reference, (doubles[0], levels, *doubles[1:]), dtype)
    rows, wrong = [], []
    for name, (function, context) in ways.items():
        with context():
            computed = results(function, prepared(name, shape, dtype, device), dtype)
        distances = [((c.double() - e).norm() / e.norm()).item() for c, e in zip(computed, expected, strict=True)]
        rows.append(f"| {shape} | {short(dtype)} | {name} | " + " | ".join(f"{d:.1e}" for d in distances) + " |")
        for result, distance in zip(RESULTS, distances, strict=True):
            allowed = TOLERANCE_OF_LOCATIONS if result == "of locations" else TOLERANCE[dtype]
            if name.startswith("triton") and not distance <= allowed:
                wrong.append(f"{name}, {shape}, {short(dtype)}: {result} is off by {distance:.1e}")
    return rows, wrong


def times(ways: dict, columns: dict, shape: str, dtype: torch.dtype, device: str) -> list[str]:
    """Rows of the table of times: forward, and backward alone."""
    milliseconds: dict[str, dict[str, float]] = {"forward": {}, "backward": {}}
    for name, (function, context) in ways.items():
        arguments = prepared(name, shape, dtype, device)
        with context():
            output = function(*arguments)
            # Compiles and tunes before anything is timed.
            backward = partial(torch.autograd.grad, output, [arguments[0], *arguments[2:]], output, retain_graph=True)
            backward()
            with torch.inference_mode():
                milliseconds["forward"][name] = median_time(partial(function, *arguments))
            milliseconds["backward"][name] = median_time(backward)
    rows = []
    for direction, by_name in milliseconds.items():
        best = min(by_name["triton"], by_name["triton, tuned"])
        cells = [f"{by_name[name]:.3f}" if name in ways else "" for name in columns]
        cells += [f"**{by_name[peer] / best:.1f}x**" if peer in ways else "" for peer in peers(columns)]
        rows.append(f"| {shape} | {short(dtype)} | {direction} | " + " | ".join(cells) + " |")
        print(rows[-1], file=sys.stderr)
    return rows


def median_time(function: Callable[[], object]) -> float:
    """Milliseconds."""
    from triton.testing import do_bench

    return cast("float", do_bench(function, return_mode="median"))  # a list only where quantiles are asked for


def peers(columns: dict) -> list[str]:
    return [name for name in ("grid_sample", "CUDA") if name in columns]


def takes(name: str, function: Callable, dtype: torch.dtype, device: str) -> bool:
    """Whether a way has that type: the CUDA kernel need not."""
    try:
        function(*prepared(name, "decoder, 300 queries", dtype, device))
    except (RuntimeError, NotImplementedError) as error:
        print(f"{name} without {short(dtype)}: {error}", file=sys.stderr)
        return False
    return True


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def table(columns: list[str], rows: list[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows])


def report(device: str) -> tuple[str, list[str]]:
    """The page in Markdown, and what is wrong."""
    columns = ways()
    error_rows, time_rows, wrong = [], [], []
    for dtype in TYPES:
        usable = {name: way for name, way in columns.items() if name != "CUDA" or takes(name, way[0], dtype, device)}
        for shape in SHAPES:
            rows, sentences = errors(usable, shape, dtype, device)
            error_rows += rows
            wrong += sentences
            time_rows += times(usable, columns, shape, dtype, device)
    ratios = [f"faster than {peer} by" for peer in peers(columns)]
    page = [
        "# Deformable attention on a GPU",
        f"{machine()}. Written by `python benchmarks/gpu.py`, which says how it was measured. Milliseconds; the ratios "
        "are of the better of the two Triton columns.",
        table(["shape", "value", "pass", *columns, *ratios], time_rows),
        "Norm of the difference to the specification in fp64, over its norm. `CUDA` gets its coordinates in value's "
        "type, which is all it takes.",
        table(["shape", "value", "way", *RESULTS], error_rows),
    ]
    return "\n\n".join(page) + "\n", wrong


def machine() -> str:
    import triton

    major, minor = torch.cuda.get_device_capability()
    return (
        f"{torch.cuda.get_device_name()} (capability {major}.{minor}), torch {torch.__version__}, "
        f"triton {triton.__version__}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("GPU.md"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU on this machine, so there is nothing to measure.", file=sys.stderr)
        return 2
    from deformable_detr_refine.modeling.ops import backend_report

    reason = next(row["reason"] for row in backend_report("cuda") if row["backend"] == "triton")
    if reason:
        print(f"The Triton backend does not run on this GPU: {reason}", file=sys.stderr)
        return 2
    page, wrong = report("cuda")
    written = arguments.output.with_name(arguments.output.name + ".partial")
    written.write_text(page)
    written.replace(arguments.output)
    print(page)
    for sentence in wrong:
        print(f"WRONG: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
