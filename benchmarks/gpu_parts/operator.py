"""The operator against its specification in fp64, the output and every gradient."""

import torch
from torch import Tensor

from deformable_detr_refine.modeling.ops import deformable_attention
from deformable_detr_refine.modeling.ops_reference import deformable_attention_reference

from .operator_inputs import CASES, inputs
from .report import Report, Session

RESULTS = ("output", "gradient of value", "of locations", "of weights")
# Norm of the difference over the specification's norm; half types round the output and value's gradient.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
# A location within fp32's reach of a cell's border has the derivative of either side: a few in a hundred thousand.
TOLERANCE_OF_LOCATIONS = 2e-2


def run(session: Session, report: Report) -> None:
    report.table("Norm of the difference to the specification in fp64, over its norm", "input", "value", *RESULTS)
    # What is small first: it says most in the least time.
    for name in reversed(CASES):
        for dtype in session.types:
            report.attempt(f"{name}, {dtype}", lambda name=name, dtype=dtype: _compare(session, report, name, dtype))


def _compare(session: Session, report: Report, name: str, dtype: torch.dtype) -> None:
    arguments = inputs(name, dtype, session.device, small=session.tiny)
    computed = _results(deformable_attention, arguments)
    expected = _expected(arguments)
    short = str(dtype).removeprefix("torch.")
    distances = []
    for result, ours, theirs in zip(RESULTS, computed, expected, strict=True):
        ours, judged = ours.double(), theirs.isfinite()
        if result in ("of locations", "of weights"):  # a sample at no finite place may have any gradient of its own
            somewhere = arguments[2].isfinite().all(-1)
            judged = judged & (somewhere if result == "of weights" else somewhere.unsqueeze(-1))
        elif places := int((judged != ours.isfinite()).sum()):
            report.wrong(f"{name}, {short}: at {places} places of {result} only one is finite, ours or the expected.")
        distances.append(((ours - theirs)[judged].norm() / theirs[judged].norm()).item())
        allowed = TOLERANCE_OF_LOCATIONS if result == "of locations" else TOLERANCE[dtype]
        if not distances[-1] <= allowed:
            report.wrong(f"{name}, {short}: {result} is off by {distances[-1]:.1e}.")
    report.row(name, short, *distances)


def _results(function, arguments: tuple) -> list[Tensor]:
    value, levels, locations, weights = arguments
    output = function(value, levels, locations, weights)
    grad = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, (value, locations, weights), grad)]


def _expected(arguments: tuple) -> list[Tensor]:
    """Image by image: the specification takes 1.5 GB for one in fp64, and the gradient depends on the batch alone."""
    value, levels, locations, weights = arguments
    size = (len(value), locations.shape[1], value.shape[2] * value.shape[3])
    grads = torch.linspace(-1, 1, size[0] * size[1] * size[2], device=value.device).view(size).to(value.dtype)
    images = []
    for image in range(len(value)):
        here = slice(image, image + 1)
        leaves = [tensor.detach()[here].double().requires_grad_() for tensor in (value, locations, weights)]
        output = deformable_attention_reference(leaves[0], levels, *leaves[1:])
        images.append([output.detach(), *torch.autograd.grad(output, leaves, grads[here].double())])
    return [torch.cat(parts) for parts in zip(*images, strict=True)]
