"""Deformable attention on a CPU, by a C library that is built with the package from deformable_attention.c.

Values of 32 and 16 bits; fp64 goes to the torch backend. A location that is not finite gives NaN in its query and head,
and NaN gradients for its own coordinates and weight, and reaches no other gradient, as in the reference. Without the
library `c_unavailable` says why.
B batch, Q queries, S tokens, H heads, L levels, P points, C channels a head; N = L * P.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .c_library import library, loaded_library, run_in_threads
from .ops_torch import torch_backward, torch_forward

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
# Rows to read, in about 0.15 ms: with fewer, waking another thread takes longer than it saves.
_ROWS_WORTH_THREADS = 50_000


class _Work(ctypes.Structure):
    """The C file's struct of the same name, field by field, and what its pointers point to."""

    _fields_ = [
        ("images", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("points", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("padded", ctypes.c_int64),
        ("type", ctypes.c_int64),
        ("direct", ctypes.c_int64),
        ("value", ctypes.c_void_p),
        ("width", ctypes.c_void_p),
        ("height", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("locations", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("grad_output", ctypes.c_void_p),
        ("grad_value", ctypes.c_void_p),
        ("grad_locations", ctypes.c_void_p),
        ("grad_weights", ctypes.c_void_p),
        ("next_task", ctypes.c_int64),
    ]

    def point_to(self, **targets: Tensor | ctypes.Array[Any]) -> None:
        self.kept = (*getattr(self, "kept", ()), targets)
        for name, target in targets.items():
            setattr(self, name, target.data_ptr() if isinstance(target, Tensor) else ctypes.addressof(target))


def c_unavailable(device: torch.device) -> str | None:
    """Why the backend does not run on `device`, or None."""
    if device.type != "cpu":
        return f"it computes on the CPU, not on {device.type}"
    return library()[1]


def c_forward(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """value (B, S, H, C), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) -> (B, Q, H * C)."""
    if value.dtype == torch.float64:
        return torch_forward(value, spatial_shapes, locations, weights)
    work = _work(value, spatial_shapes, locations, weights)
    output = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    work.point_to(output=output)
    _run(work)
    return output


def c_backward(
    grad_output: Tensor, value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_output (B, Q, H * C) and forward's inputs -> the gradients of value, locations and weights."""
    if value.dtype == torch.float64:
        return torch_backward(grad_output, value, spatial_shapes, locations, weights)
    work = _work(value, spatial_shapes, locations, weights)
    grad_value = (value.new_zeros if work.direct else value.new_empty)(value.shape)
    grad_locations = locations.new_empty(locations.shape, dtype=torch.float32)
    grad_weights = weights.new_empty(weights.shape, dtype=torch.float32)
    work.point_to(grad_output=grad_output.to(value).contiguous(), grad_value=grad_value)
    work.point_to(grad_locations=grad_locations, grad_weights=grad_weights)
    _run(work)
    return grad_value, grad_locations.to(locations.dtype), grad_weights.to(weights.dtype)


def _work(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> _Work:
    (B, S, H, C), (_, Q, _, L, P, _) = value.shape, locations.shape
    if max(S, *(side for shape in shapes for side in shape)) >= 2**28:
        raise ValueError(f"{S} tokens are too many: the C backend counts to 2**28.")
    padded = -(-C // 8) * 8
    # Four rows are read for each point. Fewer than two reads for each token do not pay for a copy (measured).
    direct = value.dtype == torch.float32 and padded == C and 4 * Q * L * P < 2 * S
    work = _Work(B, Q, S, H, L * P, C, padded, _TYPES[value.dtype], direct)
    width, height, start = _points(tuple(map(tuple, shapes)), P)
    work.point_to(value=value.contiguous(), width=width, height=height, start=start)
    work.point_to(locations=locations.float().contiguous(), weights=weights.float().contiguous())
    return work


@lru_cache(maxsize=64)
def _points(shapes: tuple[tuple[int, int], ...], points: int) -> tuple[ctypes.Array[Any], ...]:
    """Width, height and first token of each point's level, (N + 7) each, the last seven zero."""
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    columns = ([w for _, w in shapes], [h for h, _ in shapes], starts)
    return tuple(
        (ctypes.c_int32 * (len(column) * points + 7))(*(number for number in column for _ in range(points)))
        for column in columns
    )


def _run(work: _Work) -> None:
    """Compute, in this thread and as many others as torch would use and tasks can occupy."""
    tasks, copied = work.images * work.heads, 0 if work.direct else work.tokens
    take_tasks = loaded_library().deformable_attention_run
    rows = tasks * (4 * work.queries * work.points + copied)
    threads = min(torch.get_num_threads(), tasks) if rows > _ROWS_WORTH_THREADS else 1
    floats = (copied + 1) * work.padded * (2 if work.grad_value else 1)
    scratch = torch.empty(threads, floats, dtype=torch.float32, device="cpu")
    # The closure keeps the memory alive, even where the caller was interrupted and left.
    run_in_threads(lambda thread: take_tasks(ctypes.byref(work), scratch[thread].data_ptr()), threads)
