"""What happens between two matrix products, fused into one pass of C: dropout with residual and layer norm, and more.

PyTorch makes a pass over memory for each operation, and keeps a copy and a mask for backward. Here dropout is drawn
anew in backward, from a seed that comes from torch's generator. fused_passes_reference.py is the specification.
Tensors are (rows, width), one row per token: contiguous, fp32, on the CPU.
"""

import ctypes
from collections import deque
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .c_library import library, loaded_library, run_in_threads
from .plain_calls import plain_modules, plain_operations

# Elements of a pass that takes about 0.1 ms: for fewer, waking another thread takes longer than it saves.
_ELEMENTS_WORTH_THREADS = 200_000
# Of few tokens PyTorch's many passes are as fast.
_MANY_ROWS = 128


class Norm(NamedTuple):
    """The parameters of a layer norm."""

    weight: Tensor
    bias: Tensor
    eps: float


class Dropout(ctypes.Structure):
    """Which elements are dropped; C's struct of the same name."""

    _fields_ = [("seed", ctypes.c_uint64), ("dropped", ctypes.c_uint32), ("scale", ctypes.c_float)]

    def __init__(self, probability: float, training: bool = True) -> None:
        """The seed comes from torch's generator of the CPU."""
        if training and probability:
            seed = torch.empty((), dtype=torch.int64, device="cpu").random_().item()
            super().__init__(seed, round(probability * 2**32), 1 / (1 - probability))
        else:
            super().__init__(0, 0, 1)


def fused_path_applies(x: Tensor, *modules: nn.Module) -> bool:
    """Whether the fused passes may do the work of these modules, of known types, on x."""
    if not plain_modules(*modules) or torch.is_autocast_enabled("cpu"):
        return False
    tensors = (x, *(p for m in modules for p in m.parameters()))
    return (
        plain_operations(*tensors)
        and library()[0] is not None
        and x.numel() >= _MANY_ROWS * x.shape[-1]
        and x.shape[-1] % 8 == 0
        and all(None not in m._parameters.values() for m in modules)
        and all(getattr(m, "p", 0) < 1 for m in modules)  # a dropout of everything has no scale
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    )


def fused_dropout_(x: Tensor, dropout: Dropout, first: int = 0) -> Tensor:
    """Dropout in place. `first`: the number of x's first row in the whole that x is a part of."""
    drop, width = loaded_library().fused_dropout, x.shape[1]
    if dropout.dropped:
        _in_parts(x, lambda row, rows: drop(_at(x, row), first + row, rows, width, ctypes.byref(dropout)))
    return x


def fused_relu_backward_(grad: Tensor, hidden: Tensor, dropout: Dropout) -> Tensor:
    """Of hidden = dropout(relu(h)): turns the gradient of hidden into that of h; returns its sum over the rows."""
    backward, width = loaded_library().fused_relu_backward, grad.shape[1]
    sums: list[Tensor] = []

    def part(row: int, rows: int) -> None:
        total = torch.zeros(width, dtype=torch.float64, device="cpu")
        backward(_at(grad, row), _at(hidden, row), total.data_ptr(), rows, width, dropout.scale)
        sums.append(total)

    _in_parts(grad, part)
    return reduce(torch.add, sums)


def fused_residual_norm(
    x: Tensor, y: Tensor, norm: Norm, dropout: Dropout, out: Tensor, total: Tensor | None, first: int = 0
) -> None:
    """out = layer_norm(x + dropout(y)), total = x + dropout(y); width is a multiple of 8."""
    forward, width = loaded_library().fused_residual_norm, x.shape[1]

    def part(row: int, rows: int) -> None:
        kept = None if total is None else _at(total, row)
        pointers = _at(x, row), _at(y, row), norm.weight.data_ptr(), norm.bias.data_ptr(), kept, _at(out, row)
        forward(*pointers, first + row, rows, width, norm.eps, ctypes.byref(dropout))

    _in_parts(x, part)


def fused_residual_norm_backward(
    grad: Tensor, total: Tensor, norm: Norm, dropout: Dropout, grad_x: Tensor, grad_y: Tensor, first: int = 0
) -> Tensor:
    """Gradients of x and y (one tensor where nothing is dropped); returns those of weight and bias, (2, width)."""
    backward, width = loaded_library().fused_residual_norm_backward, grad.shape[1]
    sums: list[Tensor] = []

    def part(row: int, rows: int) -> None:
        grads = torch.zeros(2, width, dtype=torch.float64, device="cpu")
        pointers = _at(grad, row), _at(total, row), norm.weight.data_ptr(), _at(grad_x, row), _at(grad_y, row)
        pointers += grads[0].data_ptr(), grads[1].data_ptr()
        backward(*pointers, first + row, rows, width, norm.eps, ctypes.byref(dropout))
        sums.append(grads)

    _in_parts(grad, part)
    return reduce(torch.add, sums)


def fused_quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Floats of any shape -> uint8 round(x / scale) + zero_point, cut at 0 and 255, in x's order in memory."""
    opened = library()[0]
    if opened is None or x.dtype != torch.float32:
        return (x.float() / scale + (zero_point + 0.5)).clamp(0, 255).to(torch.uint8)
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        x = x.contiguous()
    out = torch.empty_like(x, dtype=torch.uint8)
    numbers, quantized = (tensor.as_strided((tensor.numel(), 1), (1, 1)) for tensor in (x, out))
    _in_parts(
        numbers,
        lambda row, rows: opened.fused_quantize(_at(numbers, row), _at(quantized, row), rows, 1 / scale, zero_point),
    )
    return out


class SamplingShape(ctypes.Structure):
    """How many samples a query takes, and in what its offsets are measured; C's struct of the same name."""

    _fields_ = [
        ("heads", ctypes.c_int64),
        ("levels", ctypes.c_int64),
        ("points", ctypes.c_int64),
        ("sides", ctypes.c_int64),
        ("pixel_pointer", ctypes.c_void_p),
    ]

    def __init__(self, heads: int, levels: int, points: int, pixel: Tensor | None) -> None:
        """pixel: (L, 2), width and height of a level's pixel, for references that are points; None: they are boxes."""
        self.pixel = pixel
        super().__init__(heads, levels, points, *((4, None) if pixel is None else (2, pixel.data_ptr())))


def fused_sampling(
    raw: Tensor, reference: Tensor, shape: SamplingShape, locations: Tensor, weights: Tensor, first: int
) -> None:
    """raw (rows, H * L * P * 3), offsets and then logits -> locations (rows, H, L, P, 2) and weights (rows, H, L, P).

    reference: (B or 1, Q, L, 2 or 4), of all rows of an image or of a batch, of which `first` is the first here.
    """
    forward, samples = loaded_library().fused_sampling, raw.shape[1] // 3

    def part(row: int, rows: int) -> None:
        memory = torch.empty(5 * samples + 8, dtype=torch.float32, device="cpu")
        pointers = _at(raw, row), reference.data_ptr(), _at(locations, row), _at(weights, row), memory.data_ptr()
        forward(*pointers, first + row, rows, reference[..., 0, 0].numel(), ctypes.byref(shape))

    _in_parts(raw, part)


def fused_sampling_backward(
    grad_locations: Tensor, grad_weights: Tensor, weights: Tensor, reference: Tensor, shape: SamplingShape, first: int
) -> Tensor:
    """The gradient of raw."""
    samples = weights[0].numel()
    backward, grad_raw = loaded_library().fused_sampling_backward, weights.new_empty(len(weights), 3 * samples)

    def part(row: int, rows: int) -> None:
        memory = torch.empty(4 * samples, dtype=torch.float32, device="cpu")
        pointers = _at(grad_locations, row), _at(grad_weights, row), _at(weights, row), reference.data_ptr()
        pointers += _at(grad_raw, row), memory.data_ptr()
        backward(*pointers, first + row, rows, reference[..., 0, 0].numel(), ctypes.byref(shape))

    _in_parts(grad_raw, part)
    return grad_raw


def _in_parts(x: Tensor, work: Callable[[int, int], None]) -> None:
    """Call work(first row, number of rows) for parts of all rows, in several threads where that pays."""
    rows, threads = len(x), torch.get_num_threads() if x.numel() > _ELEMENTS_WORTH_THREADS else 1
    step = -(-rows // (2 * threads if threads > 1 else 1))
    firsts = deque(range(0, rows, step))

    def take(_: int) -> None:
        while firsts:
            try:
                row = firsts.popleft()
            except IndexError:  # another thread was faster
                return
            work(row, min(step, rows - row))

    run_in_threads(take, threads)


def _at(x: Tensor, row: int) -> int:
    return x.data_ptr() + row * x.stride(0) * x.element_size()
