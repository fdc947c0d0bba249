"""Deformable attention on a GPU, in Triton: one kernel per direction for all levels, compiled at its first call.

Values of 32 and 16 bits with a power of two from 2 to 64 channels per head; other inputs go to the torch backend.
A thread works on the same channels of a row's two halves, so that half as many threads compute addresses.
Coordinates and sums are fp32. A location that is not finite gives NaN in its query and head, NaN gradients for its
weight and its other coordinate, and reaches no other gradient, as in the reference.
Softmax and the way from offsets to locations stay outside. Inside they saved two launches a layer, of 800x1333 68 MB of
traffic, and took instructions and registers (compiled for fp32 and 32 channels): a sample 16.7 in place of 15.8 in
forward on sm_90, 18.1 and four barriers where references are boxes; backward 2 to 4% more, and on sm_80 it spilled.
B batch, Q queries, S tokens, H heads, L levels, P points, C channels a head; q = 8 * ROWS queries a program.
"""
# The kernels are Triton's language in Python's syntax, and Triton may be absent; a checker of Python knows neither.
# pyright: reportOptionalMemberAccess=false, reportInvalidTypeForm=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportMissingParameterType=false

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .ops_torch import torch_backward, torch_forward, warn_of_slow_form

try:
    import triton
    import triton.language as tl
    from triton.language import constexpr
except ImportError:  # PyTorch comes without it on some systems; `triton_unavailable` says so
    triton = tl = constexpr = None

_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_INTERPRETED = triton is not None and triton.knobs.runtime.interpret
_RANDOM_ORDER = (
    "On a GPU the backward of deformable attention adds to the gradient of value in no fixed order, by the triton "
    "backend's atomics as by the grid_sample of DDETR_BACKEND=torch. Under torch.use_deterministic_algorithms(True) "
    "train on the CPU, or give it warn_only=True."
)


def triton_unavailable(device: torch.device, by_name: bool) -> str | None:
    """Why the backend does not run on `device`, or None. `by_name`: it was asked for, not chosen for the device."""
    if triton is None:
        return "triton is not installed"
    if _INTERPRETED:
        return None if by_name else "TRITON_INTERPRET=1 makes it slow, so it runs only when it is asked for by name"
    if device.type not in ("cuda", "xpu"):  # ROCm's GPUs are cuda too
        return f"it computes on a GPU, not on {device.type} (TRITON_INTERPRET=1 emulates one, slowly)"
    return _driver_failure()


def triton_forward(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """value (B, S, H, C), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) -> (B, Q, H * C)."""
    if reason := _unfit(value, locations):
        warn_of_slow_form(value.device.type, reason)
        return torch_forward(value, spatial_shapes, locations, weights)
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    output = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    tensors = {"value": value, "locations": locations, "weights": weights, "output": output}
    _launch(_forward_kernel, tensors, spatial_shapes, vector=16 // value.element_size(), rows=8)
    return output


def triton_backward(
    grad_output: Tensor, value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_output (B, Q, H * C) and forward's inputs -> the gradients of value, locations and weights.

    Raises:
        RuntimeError: under torch.use_deterministic_algorithms(True).
    """
    if _unfit(value, locations):
        return torch_backward(grad_output, value, spatial_shapes, locations, weights)
    if torch.are_deterministic_algorithms_enabled():
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(_RANDOM_ORDER)
        warnings.warn(_RANDOM_ORDER, stacklevel=2)
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    # Half values: thousands of queries add to a cell of a coarse level, which half precision would not survive.
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    gradients = grad_value, torch.empty_like(locations), torch.empty_like(weights)
    tensors = {"grad_output": grad_output.contiguous(), "value": value, "locations": locations, "weights": weights}
    tensors |= dict(zip(("grad_value", "grad_locations", "grad_weights"), gradients, strict=True))
    # Four channels a thread, of half values too: the widest addition is sm_90's red.v4.f32. Before sm_90 Triton passes
    # what is added through shared memory, so that the scalar additions of a warp fall on whole cache lines.
    slots = triton.next_power_of_2(weights.shape[-1])
    _launch(_backward_kernel, tensors, spatial_shapes, vector=4, rows=4, SLOTS=slots)
    return grad_value.to(value.dtype), *gradients[1:]


def _unfit(value: Tensor, locations: Tensor) -> str | None:
    """Why the kernels cannot compute it, or None. Inside an image they count in 32 bits."""
    (_, S, H, C), (_, Q, _, L, P, _) = value.shape, locations.shape
    if value.dtype not in _TYPES:
        return f"Triton's has no {value.dtype}"
    if C not in (2, 4, 8, 16, 32, 64):
        return f"Triton's takes a power of two from 2 to 64 channels per head, not {C}"
    return None if max(S * H * C, Q * H * C, Q * H * L * P * 2) < 2**31 else "the images are too large for Triton's"


@cache
def _driver_failure() -> str | None:
    """Triton compiles a few lines of C when it first meets a GPU; without a compiler the torch backend runs."""
    try:
        triton.runtime.driver.active.get_current_device()
    except Exception as error:  # whatever it is, there is another backend
        return f"Triton does not start: {error}"
    return None


def _launch(
    kernel: Any,
    tensors: dict[str, Tensor],
    spatial_shapes: Sequence[tuple[int, int]],
    vector: int,
    rows: int,
    **own: int,
) -> None:
    """Run a kernel over all queries, in tiles of rows x 8, by threads that own `vector` channels of each half."""
    (B, S, H, C), (_, Q, _, L, P, _) = tensors["value"].shape, tensors["locations"].shape
    vector, tiled = min(vector, C // 2), Q == S

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        rows = meta["ROWS"]
        tiles = sum(-(-h // rows) * -(-w // 8) for h, w in spatial_shapes) if tiled else -(-Q // (8 * rows))
        return tiles, H, B

    # As floats: for integers in a tuple Triton would compile anew when a side becomes a multiple of 16, or 1.
    flat_shapes = tuple(float(side) for shape in spatial_shapes for side in shape)
    # Triton 3.10 no longer fuses multiplications with additions unasked.
    sizes = {"S": S, "Q": Q, "H": H, "C": C, "L": L, "P": P, "TILED": tiled, "VECTOR": vector, "enable_fp_fusion": True}
    if os.getenv("DDETR_TRITON_AUTOTUNE", "0") != "0" and not _INTERPRETED:
        kernel = _tuned(kernel)
    else:
        # UNMEASURED, chosen without a GPU by what ptxas reports of 32 channels: one or two queries per thread in
        # forward (rows = 8), one in backward (rows = 4). With no more threads than queries, Triton would pass locations
        # and weights through shared memory.
        warps = max(C // 2 // vector, rows // 2)
        sizes |= {"ROWS": rows, "num_warps": warps}
        if not tiled:  # a decoder's few queries: smaller programs occupy more processors
            sizes |= {"ROWS": rows // 4, "num_warps": max(warps // 4, 1)}
    # Its index is None on the CPU, where the interpreter runs.
    with torch.accelerator.device_index(tensors["value"].device.index):
        kernel[grid](**tensors, spatial_shapes=flat_shapes, **sizes, **own)


@cache
def _tuned(kernel: Any) -> Any:
    """The kernel, timing these configurations at the first call with new structural sizes or types.

    DDETR_TRITON_AUTOTUNE=1 asks for it.
    """
    configurations = [triton.Config({"ROWS": rows}, num_warps=warps) for rows in (2, 4, 8) for warps in (2, 4, 8, 16)]
    reset = [name for name in kernel.arg_names if name == "grad_value"]
    return triton.autotune(configurations, key=["C", "L", "P", "TILED"], reset_to_zero=reset)(kernel)


def _jit(function: Callable[..., Any]) -> Any:
    return triton.jit(do_not_specialize=["S", "Q"])(function) if triton else function


@_jit
def _size(spatial_shapes, level: constexpr):
    return tl.cast(spatial_shapes[2 * level], tl.int32), tl.cast(spatial_shapes[2 * level + 1], tl.int32)


@_jit
def _queries(spatial_shapes, Q, L: constexpr, TILED: constexpr, ROWS: constexpr):
    """The queries (q,) of this program, and which of them there are."""
    program, lane = tl.program_id(0), tl.arange(0, 8 * ROWS)
    if TILED:
        # Neighbours on the image read the same cells: a program takes a tile of ROWS x 8, of the last level that
        # begins at it or before.
        tile, height, width, first_token = program, 1, 1, 0
        first_tile, token = 0, 0
        for level in tl.static_range(L):
            h, w = _size(spatial_shapes, level)
            begun = program >= first_tile
            tile = tl.where(begun, program - first_tile, tile)
            height = tl.where(begun, h, height)
            width = tl.where(begun, w, width)
            first_token = tl.where(begun, token, first_token)
            first_tile += tl.cdiv(h, ROWS) * tl.cdiv(w, 8)
            token += h * w
        across = tl.cdiv(width, 8)
        row = tile // across * ROWS + lane // 8
        column = tile % across * 8 + lane % 8
        query = first_token + row * width + column
        inside = (row < height) & (column < width)
    else:
        query = program * (8 * ROWS) + lane
        inside = query < Q
    return query, inside


@_jit
def _sample(locations, weights, sample, inside, h, w):
    """Samples (q,) of a level -> attention, share of the right and lower cells, upper left cell, which cells exist."""
    x = tl.load(locations + 2 * sample, mask=inside, other=0.0).to(tl.float32) * w - 0.5
    y = tl.load(locations + 2 * sample + 1, mask=inside, other=0.0).to(tl.float32) * h - 0.5
    attention = tl.load(weights + sample, mask=inside, other=0.0).to(tl.float32)
    column, row = tl.floor(x), tl.floor(y)
    # On floats: false for NaN and infinity, whose integers mean nothing. Their share is NaN, and 0 * NaN is NaN.
    left, right = inside & (column >= 0) & (column < w), inside & (column >= -1) & (column < w - 1)
    upper, lower = (row >= 0) & (row < h), (row >= -1) & (row < h - 1)
    cell = row.to(tl.int32) * w + column.to(tl.int32)
    return attention, x - column, y - row, cell, left & upper, right & upper, left & lower, right & lower


@_jit
def _forward_kernel(
    value, locations, weights, output, spatial_shapes, S, Q, H,
    C: constexpr, L: constexpr, P: constexpr, TILED: constexpr, VECTOR: constexpr, ROWS: constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query, inside = _queries(spatial_shapes, Q, L, TILED, ROWS)
    row, channel = query * H + head, tl.arange(0, C // 2)
    value += image * S * H * C + head * C
    locations += image * Q * H * (L * P * 2)
    weights += image * Q * H * (L * P)
    total0, total1 = tl.zeros((8 * ROWS, C // 2), tl.float32), tl.zeros((8 * ROWS, C // 2), tl.float32)
    for level in tl.static_range(L):
        h, w = _size(spatial_shapes, level)
        for point in range(P):
            attention, x, y, cell, in00, in01, in10, in11 = _sample(
                locations, weights, row * (L * P) + level * P + point, inside, h, w
            )
            cells = (cell * (H * C))[:, None] + channel
            upper, lower = attention * (1 - y), attention * y
            total0, total1 = _add(total0, total1, value, cells, in00, upper * (1 - x), C, VECTOR)
            total0, total1 = _add(total0, total1, value, cells + H * C, in01, upper * x, C, VECTOR)
            total0, total1 = _add(total0, total1, value, cells + w * H * C, in10, lower * (1 - x), C, VECTOR)
            total0, total1 = _add(total0, total1, value, cells + (w + 1) * H * C, in11, lower * x, C, VECTOR)
        value += h * w * H * C
    output += image * Q * H * C
    cells = (row * C)[:, None] + channel
    tl.store(output + cells, total0, mask=inside[:, None])
    tl.store(output + C // 2 + cells, total1, mask=inside[:, None])


@_jit
def _add(total0, total1, value, cells, inside, share, C: constexpr, VECTOR: constexpr):
    """Both halves' totals (q, C / 2) with share times the cells' values."""
    half0, half1 = _halves(value, cells, inside, C, VECTOR)
    return total0 + half0 * share[:, None], total1 + half1 * share[:, None]


@_jit
def _halves(pointer, offsets, inside, C: constexpr, VECTOR: constexpr):
    """Two of (q, C / 2) in fp32, zero outside, read by threads that own VECTOR contiguous channels of each."""
    # The hint holds for the line's own sum: on an argument it would be lost when the function is inlined.
    half0 = tl.load(tl.max_contiguous(pointer + offsets, [1, VECTOR]), mask=inside[:, None], other=0.0)
    half1 = tl.load(tl.max_contiguous(pointer + C // 2 + offsets, [1, VECTOR]), mask=inside[:, None], other=0.0)
    return half0.to(tl.float32), half1.to(tl.float32)


@_jit
def _backward_kernel(
    grad_output, value, locations, weights, grad_value, grad_locations, grad_weights, spatial_shapes, S, Q, H,
    C: constexpr, L: constexpr, P: constexpr, TILED: constexpr, VECTOR: constexpr, ROWS: constexpr,
    SLOTS: constexpr,
):  # fmt: skip
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query, inside = _queries(spatial_shapes, Q, L, TILED, ROWS)
    row, channel = query * H + head, tl.arange(0, C // 2)
    value += image * S * H * C + head * C
    grad_value += image * S * H * C + head * C
    locations += image * Q * H * (L * P * 2)
    grad_locations += image * Q * H * (L * P * 2)
    weights += image * Q * H * (L * P)
    grad_weights += image * Q * H * (L * P)
    grad0, grad1 = _halves(grad_output + image * Q * H * C, (row * C)[:, None] + channel, inside, C, VECTOR)
    slot, number = tl.arange(0, SLOTS), tl.arange(0, 2 * SLOTS)  # of a level's points, and of their coordinates
    for level in tl.static_range(L):
        h, w = _size(spatial_shapes, level)
        to_weight, to_x = tl.zeros((8 * ROWS, SLOTS), tl.float32), tl.zeros((8 * ROWS, SLOTS), tl.float32)
        to_y = tl.zeros((8 * ROWS, SLOTS), tl.float32)
        for point in tl.static_range(P):
            sample = row * (L * P) + level * P + point
            attention, x, y, cell, in00, in01, in10, in11 = _sample(locations, weights, sample, inside, h, w)
            cells = (cell * (H * C))[:, None] + channel
            upper, lower = attention * (1 - y), attention * y
            dot00 = _cell(value, grad_value, cells, in00, upper * (1 - x), grad0, grad1, C, VECTOR)
            dot01 = _cell(value, grad_value, cells + H * C, in01, upper * x, grad0, grad1, C, VECTOR)
            dot10 = _cell(value, grad_value, cells + w * H * C, in10, lower * (1 - x), grad0, grad1, C, VECTOR)
            dot11 = _cell(value, grad_value, cells + (w + 1) * H * C, in11, lower * x, grad0, grad1, C, VECTOR)
            # The bilinear sample of the four products, and its derivatives.
            above, below = dot00 + (dot01 - dot00) * x, dot10 + (dot11 - dot10) * x
            slope = (dot01 - dot00) * (1 - y) + (dot11 - dot10) * y
            here = slot == point
            to_weight = tl.where(here, (above + (below - above) * y)[:, None], to_weight)
            to_x = tl.where(here, (slope * attention * w)[:, None], to_x)
            to_y = tl.where(here, ((below - above) * attention * h)[:, None], to_y)
        # By level, not by point: Triton hands what is stored over in shared memory, from the sums' threads to others,
        # with two barriers each time. CUDA C++ could store from where it is, and sum the coarse levels, to whose few
        # cells all programs add, in shared memory first.
        first = (row * (L * P) + level * P)[:, None]
        tl.store(grad_weights + first + slot, to_weight, mask=inside[:, None] & (slot < P))
        pairs = tl.reshape(tl.join(to_x, to_y), (8 * ROWS, 2 * SLOTS))
        tl.store(grad_locations + 2 * first + number, pairs, mask=inside[:, None] & (number < 2 * P))
        value += h * w * H * C
        grad_value += h * w * H * C


@_jit
def _cell(value, grad_value, cells, inside, share, grad0, grad1, C: constexpr, VECTOR: constexpr):
    """Add the cells' gradients, share times grad; returns the product (q,) of the cells' values and grad."""
    half0, half1 = _halves(value, cells, inside, C, VECTOR)
    # Relaxed: nothing here reads grad_value. The result goes unused, so that this is a reduction, not an exchange.
    tl.atomic_add(grad_value + cells, share[:, None] * grad0, mask=inside[:, None], sem="relaxed")
    tl.atomic_add(grad_value + C // 2 + cells, share[:, None] * grad1, mask=inside[:, None], sem="relaxed")
    return tl.sum(half0 * grad0 + half1 * grad1, 1)
