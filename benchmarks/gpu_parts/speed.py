"""The operator's time beside `grid_sample`'s and the CUDA kernel of the Hub, and as a share of the bandwidth."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deformable_detr_refine.modeling.ops import deformable_attention, use_backend

from .measure import copy_bandwidth, milliseconds
from .operator_inputs import inputs
from .report import Report, Session

HUB_KERNEL = "kernels-community/deformable-detr"
CASES = ("encoder", "decoder", "encoder, batch 8")


def run(session: Session, report: Report) -> None:
    bandwidth = copy_bandwidth(session.device)
    ways: dict[str, Any] = {"ours": lambda: use_backend(None), "grid_sample": lambda: use_backend("reference")}
    if session.tune:
        ways["ours, tuned"] = _tuned
    columns = [f"{name}, ms" for name in ways]
    report.table(
        f"Median times, the GPU's cache emptied before each call; a copy moves {bandwidth / 1e9:.0f} GB/s.",
        *("input", "value", "pass", *columns, "faster than grid_sample by", "of the copy's bandwidth"),
    )
    for case in CASES:
        for dtype in session.types:
            arguments = inputs(case, dtype, session.device, small=session.tiny)
            times = {name: _times(deformable_attention, arguments, session, way) for name, way in ways.items()}
            for index, direction in enumerate(("forward", "backward")):
                ours, theirs = times["ours"][index], times["grid_sample"][index]
                share = _bytes(arguments, direction) / (ours / 1e3) / bandwidth
                cells = [times[name][index] for name in ways]
                report.row(case, str(dtype).removeprefix("torch."), direction, *cells, theirs / ours, share)
    kernel = _hub_kernel()
    if kernel is None:
        return
    report.table(f"The CUDA kernel {HUB_KERNEL}, all in value's type", "input", "value", "forward, ms", "backward, ms")
    for case in CASES[:2]:
        for dtype in session.types[:2]:
            value, levels, *rest = inputs(case, dtype, session.device)
            arguments = value, levels, *(tensor.detach().to(dtype).requires_grad_() for tensor in rest)
            apply = partial(HubKernel.apply, kernel)
            times = report.attempt(f"{HUB_KERNEL}, {dtype}", partial(_times, apply, arguments, session))
            report.row(case, str(dtype).removeprefix("torch."), *(times or ("", "")))


def _times(function: Callable, arguments: tuple, session: Session, way: Any = contextlib.nullcontext) -> tuple:
    """Milliseconds of forward and of backward alone."""
    value, _, locations, weights = arguments
    with way():
        with torch.inference_mode():
            forward = milliseconds(partial(function, *arguments), session.device, 0.2, cold=True)
        output = function(*arguments)
        backward = partial(torch.autograd.grad, output, (value, locations, weights), output, retain_graph=True)
        return forward, milliseconds(backward, session.device, 0.3, cold=True)


def _bytes(arguments: tuple, direction: str) -> int:
    """What must move at least: each tensor once; in backward the gradients too, value's read and written in fp32."""
    value, _, locations, weights = arguments
    output = value.shape[0] * locations.shape[1] * value.shape[2] * value.shape[3] * value.element_size()
    read = value.nbytes + locations.nbytes + weights.nbytes + output
    return read if direction == "forward" else read + locations.nbytes + weights.nbytes + 8 * value.numel()


@contextlib.contextmanager
def _tuned() -> Iterator[None]:
    os.environ["DDETR_TRITON_AUTOTUNE"] = "1"
    try:
        with use_backend("triton"):
            yield
    finally:
        del os.environ["DDETR_TRITON_AUTOTUNE"]


def _hub_kernel() -> Any:
    try:
        from kernels import get_kernel  # pyright: ignore[reportMissingImports] (installed by who wants that table)

        return get_kernel(HUB_KERNEL, version=1)
    except Exception as error:  # not installed, not reachable, not built for this system: the report does without
        print(f"Without the CUDA kernel of the hub ({HUB_KERNEL}): {error}")
        return None


class HubKernel(torch.autograd.Function):
    """The CUDA kernel that stock transformers downloads; it wants all tensors in value's type."""

    @staticmethod
    def forward(ctx: Any, kernel: Any, value: Tensor, levels: list, locations: Tensor, weights: Tensor):
        sizes = torch.tensor(levels, device=value.device)
        starts = torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))
        ctx.kernel = kernel
        ctx.save_for_backward(value, sizes, starts, locations, weights)
        return kernel.ms_deform_attn_forward(value, sizes, starts, locations, weights, 64)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor):
        arguments = *ctx.saved_tensors, grad_output.contiguous(), 64
        grad_value, grad_locations, grad_weights = ctx.kernel.ms_deform_attn_backward(*arguments)
        return None, grad_value, None, grad_locations, grad_weights
