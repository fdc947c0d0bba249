"""Multi-scale deformable attention as one PyTorch operator, whatever computes it.

`deformable_attention` is what models call. Underneath stand two custom operators, forward and backward, so that
autograd, `torch.compile`, `torch.export` and DDP see one node. The backend is chosen at each call: the one asked for
with `use_backend` or the environment variable `DDETR_BACKEND`, else the first in `BACKENDS` that runs on the device.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .ops_c import c_backward, c_forward, c_unavailable
from .ops_reference import deformable_attention_reference
from .ops_torch import torch_backward, torch_forward, warn_of_slow_form
from .ops_triton import triton_backward, triton_forward, triton_unavailable
from .plain_calls import transformed


class Backend(NamedTuple):
    """One way to compute the operator; see `ops_torch` for what the two functions take and give.

    They are called with inputs that fit together and are not empty.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    unavailable: Callable[[torch.device], str | None]  # why it does not run on a device


# Best first.
BACKENDS = {
    "c": Backend(c_forward, c_backward, c_unavailable),
    "triton": Backend(
        triton_forward, triton_backward, lambda device: triton_unavailable(device, by_name=_requested == "triton")
    ),
    "torch": Backend(torch_forward, torch_backward, lambda device: None),
}
REFERENCE = "reference"
_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# A plain global, which torch.compile understands.
_requested: str | None = os.getenv("DDETR_BACKEND") or None
# A copy of this file that travelled with a model's folder registers operators of its own, beside the package's.
_NAMESPACE = __name__.rpartition(".")[0].removesuffix(".modeling").replace(".", "_") or "deformable_detr_refine"


def deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention: a weighted sum of bilinear samples of every level.

    Args:
        value: (B, S, H, C), the levels' pixels one after another, S = sum of h * w; fp64, fp32, fp16 or bf16.
        spatial_shapes: [(h, w)] * L, Python integers.
        sampling_locations: (B, Q, H, L, P, 2) as (x, y), 0..1 from edge to edge of the padded level; zero outside.
        attention_weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H * C) of value's type. Coordinates and sums are fp32 (fp64 for fp64). A location that is not finite
        gives NaN in its query.

    Raises:
        ValueError: when shapes do not fit together, or the backend asked for does not run here.

    Example:
        >>> value = torch.ones(1, 6, 1, 2)  # one image of 2 x 3 pixels, one head, two channels
        >>> centre, weight = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
        >>> deformable_attention(value, [(2, 3)], centre, weight)
        tensor([[[1., 1.]]])
    """
    if _requested == REFERENCE or transformed():
        _check_inputs(value, spatial_shapes, sampling_locations, attention_weights)
        return deformable_attention_reference(value, spatial_shapes, sampling_locations, attention_weights)
    flat_shapes = [side for shape in spatial_shapes for side in shape]
    return _forward(value, flat_shapes, sampling_locations, attention_weights)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Choose the backend inside a `with` block, by a name in `BACKENDS` or 'reference'; None chooses by device.

    It holds for the whole process, other threads included.

    Raises:
        ValueError: no backend has this name.

    Example:
        >>> with use_backend("reference"):
        ...     deformable_attention(
        ...         torch.ones(1, 1, 1, 1), [(1, 1)], torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
        ...     )
        tensor([[[1.]]])
    """
    if name is not None and name != REFERENCE and name not in BACKENDS:
        raise ValueError(f"No backend is called {name!r}; there are {', '.join([*BACKENDS, REFERENCE])}.")
    global _requested
    before, _requested = _requested, name
    try:
        yield
    finally:
        _requested = before


def backend_report(device: str | torch.device = "cpu") -> list[dict[str, Any]]:
    """What can compute the operator on `device` and which backend a call takes, for `ddetr doctor`.

    Returns:
        A dict per backend, best first: backend, available, reason (why not, '' when available), chosen. None is
        chosen when the one asked for does not exist or does not run here: a call would raise.
    """
    reasons = {name: backend.unavailable(torch.device(device)) for name, backend in BACKENDS.items()}
    reasons[REFERENCE] = None
    available = [name for name, reason in reasons.items() if reason is None]
    chosen = available[0] if _requested is None else _requested
    return [
        {
            "backend": name,
            "available": reason is None,
            "reason": reason or "",
            "chosen": reason is None and name == chosen,
        }
        for name, reason in reasons.items()
    ]


def _backend(device: torch.device) -> Backend:
    if _requested is None:
        name, backend = next((name, backend) for name, backend in BACKENDS.items() if not backend.unavailable(device))
        if name == "torch" and device.type != "cpu":
            warn_of_slow_form(device.type, BACKENDS["triton"].unavailable(device) or "")
        return backend
    if _requested not in BACKENDS:
        raise ValueError(f"DDETR_BACKEND={_requested}: no such backend; there are {', '.join([*BACKENDS, REFERENCE])}.")
    if reason := BACKENDS[_requested].unavailable(device):
        raise ValueError(f"The {_requested} backend does not run here: {reason}")
    return BACKENDS[_requested]


def _check_inputs(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    """All that backends rely on, whether they were reached by `deformable_attention` or through torch.ops."""
    if value.dtype not in _TYPES:
        raise ValueError(f"value is {value.dtype}; the operator takes float64, float32, bfloat16 and float16.")
    if not value.device == locations.device == weights.device:
        raise ValueError(
            f"value is on {value.device}, sampling_locations on {locations.device} and attention_weights on "
            f"{weights.device}: they must be on one device."
        )
    if value.dim() != 4 or locations.dim() != 6 or locations.shape[-1] != 2:
        raise ValueError(
            "value is (B, S, H, C) and sampling_locations (B, Q, H, L, P, 2), "
            f"but got {tuple(value.shape)} and {tuple(locations.shape)}."
        )
    batch, tokens, heads, _ = value.shape
    if any(side < 0 for shape in shapes for side in shape) or sum(h * w for h, w in shapes) != tokens:
        raise ValueError(f"spatial_shapes {list(shapes)} do not add up to value's {tokens} tokens.")
    if (locations.shape[0], locations.shape[2], locations.shape[3]) != (batch, heads, len(shapes)):
        raise ValueError(
            f"sampling_locations {tuple(locations.shape)} do not fit "
            f"{batch} images, {heads} heads and {len(shapes)} levels."
        )
    if weights.shape != locations.shape[:-1]:
        raise ValueError(
            f"attention_weights {tuple(weights.shape)} do not fit sampling_locations {tuple(locations.shape)}."
        )


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


@torch.library.custom_op(f"{_NAMESPACE}::deformable_attention", mutates_args=())
def _forward(value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    shapes = _pairs(spatial_shapes)
    _check_inputs(value, shapes, locations, weights)
    if not (value.numel() and locations.numel()):  # backends need not think of empty batches
        return value.new_zeros(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    return _backend(value.device).forward(value, shapes, locations, weights)


@torch.library.custom_op(f"{_NAMESPACE}::deformable_attention_backward", mutates_args=())
def _backward(
    grad_output: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = _pairs(spatial_shapes)
    _check_inputs(value, shapes, locations, weights)
    if grad_output.shape != (value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]):
        raise ValueError(f"grad_output {tuple(grad_output.shape)} does not have the output's shape.")
    if not (value.numel() and locations.numel()):
        return value.new_zeros(value.shape), locations.new_zeros(locations.shape), weights.new_zeros(weights.shape)
    backend = _backend(value.device)
    return backend.backward(grad_output.contiguous(), value, shapes, locations, weights)


@_forward.register_fake
def _(value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@_backward.register_fake
def _(
    grad_output: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.spatial_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _autograd(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _backward(grad_output, value, ctx.spatial_shapes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


_forward.register_autograd(_autograd, setup_context=_setup_context)
