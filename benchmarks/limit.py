"""The limit: what the model's own matrix products and convolutions take alone, and how far the model is from it.

    python benchmarks/limit.py --size 800x1333

Every product and convolution of one inference and one training step is recorded (with its shapes, strides and types)
and then called again, in the same order and by the same kernels of PyTorch and oneDNN, on tensors of its own: no
attention, norm, activation, loss, no dropout and no copies between them. In turns with the whole model. Markdown.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from contenders import OURS, WORK, Local, inputs, our_detector
from timing import interleaved, shape_of, write_numbers
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")
KINDS = {"its convolutions alone": CONVOLUTIONS, "its matrix products alone": PRODUCTS}
BOTH = "both: the limit"
# An operator, its arguments with shapes in place of tensors, and its operations.
Call = tuple[OpOverload, tuple, dict, int]


@dataclass(frozen=True)
class Shape:
    """What a tensor is, without its values."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        reach = 1 + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        return torch.randn(reach, dtype=self.dtype).as_strided(self.size, self.stride)


@dataclass
class Recorder(TorchDispatchMode):
    """Notes each product and convolution while it is active: the operator, its arguments as shapes, its operations."""

    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, operator: OpOverload, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = operator(*args, **kwargs)
        if operator.name().partition(".")[0] in CONVOLUTIONS + PRODUCTS:
            shapes, named = tree_map(_shape, (args, kwargs))
            self.calls.append((operator, shapes, named, _operations(operator, args, kwargs, output)))
        return output


def _shape(value: object) -> object:
    return Shape(tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _operations(operator: OpOverload, args: tuple, kwargs: dict, output: object) -> int:
    """Multiplications and additions."""
    if operator.name().startswith("mkldnn::"):
        return 2 * args[0].numel() * args[1].shape[0]
    return flop_registry[operator._overloadpacket](*args, **kwargs, out_val=output)


def recorded(contender: Local, work: str) -> list[Call]:
    getattr(contender, work)()  # switches to evaluation or training
    with Recorder() as recorder:
        if work == "training":
            contender.training()
        else:
            # Under inference_mode a convolution is still conv2d when it comes by, a product still matmul or linear.
            with torch.no_grad():
                contender.model(contender.batch["pixel_values"], contender.batch["pixel_mask"])
    return recorder.calls


def again(calls: Sequence[Call]) -> Callable[[], None]:
    """A function that makes these calls; equal shapes share a tensor."""
    tensors: dict[Shape, Tensor] = {}

    def value(shape: object) -> object:
        if not isinstance(shape, Shape):
            return shape
        if shape not in tensors:
            tensors[shape] = shape.tensor()
        return tensors[shape]

    ready = [(operator, *tree_map(value, (args, kwargs))) for operator, args, kwargs, _ in calls]

    @torch.no_grad()
    def run() -> None:
        for operator, args, kwargs in ready:
            operator(*args, **kwargs)

    return run


def limit(contender: Local, work: str, runs: int) -> tuple[str, dict[str, float]]:
    """Markdown, and the minima in seconds by name."""
    calls = recorded(contender, work)
    by_kind = {
        kind: [call for call in calls if call[0].name().partition(".")[0] in names] for kind, names in KINDS.items()
    }
    candidates = {kind: again(calls_of_kind) for kind, calls_of_kind in by_kind.items()}
    times = interleaved({**candidates, OURS: getattr(contender, work)}, runs)
    rows = ["| | minimum, s | median, s | calls | GFLOP | GFLOP/s |", "|---|---|---|---|---|---|"]
    for kind, calls_of_kind in by_kind.items():
        best, work_done = min(times[kind]), sum(call[-1] for call in calls_of_kind) / 1e9
        cells = f"{best:.3f} | {statistics.median(times[kind]):.3f} | {len(calls_of_kind)} | {work_done:.0f}"
        rows.append(f"| {kind} | {cells} | {work_done / best:.0f} |")
    bare, whole = sum(min(times[kind]) for kind in KINDS), min(times[OURS])
    median = statistics.median(times[OURS])
    rows.append(f"| **{BOTH}** | **{bare:.3f}** | | | | |")
    rows.append(f"| this package: **{whole / bare:.2f} times the limit** | {whole:.3f} | {median:.3f} | | | |")
    return "\n".join(rows), {"bare": bare, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="timed runs of each (default 4)")
    parser.add_argument("--size", default="800x1333", help="height x width (default 800x1333)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    contender = Local(our_detector())
    contender.take(inputs(*shape_of(args.size)))
    print(f"{args.threads} threads, fp32, batch 1, {args.size}.")
    numbers = {}
    for work, title in WORK.items():
        text, numbers[work] = limit(contender, work, args.runs)
        print(f"\n### {title}\n\n{text}", flush=True)
    write_numbers(args.numbers, numbers)


if __name__ == "__main__":
    main()
