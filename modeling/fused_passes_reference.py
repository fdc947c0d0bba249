"""The specification of the fused passes, in plain PyTorch: what the C library's results are compared with.

Only tests import it, so it does not travel with a saved model. B batch, Q queries, H heads, L levels, P points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused_passes import Dropout, Norm


def dropout_factors(dropout: Dropout, rows: int, width: int, first: int = 0) -> Tensor:
    """What dropout multiplies each element with, 0 or the scale, (rows, width); a function of its number and the seed.

    first: the number of the first row.
    Source: Chris Wellons' hash triple32, with half of the seed before its first multiplication, half before the second.
    """
    number = torch.arange(first * width, (first + rows) * width)
    column, row_start = number % width, number - number % width
    low, high = dropout.seed & 0xFFFFFFFF, dropout.seed >> 32
    x = (column + row_start + low) & 0xFFFFFFFF
    x = ((x ^ x >> 17) * 0xED5AD4BB) & 0xFFFFFFFF
    x = ((x ^ x >> 11 ^ high ^ row_start >> 32) * 0xAC4C1B51) & 0xFFFFFFFF
    x = ((x ^ x >> 15) * 0x31848BAB) & 0xFFFFFFFF
    kept = (x ^ x >> 14) >= dropout.dropped
    return (kept * dropout.scale).view(rows, width)


def hidden_reference(x: Tensor, weight: Tensor, bias: Tensor, factors: Tensor) -> Tensor:
    """dropout(relu(linear(x))), the hidden layer of a feed-forward."""
    return F.linear(x, weight, bias).relu() * factors


def quantize_reference(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """round(x / scale) + zero_point in 0..255."""
    return ((x / scale).round() + zero_point).clamp(0, 255).to(torch.uint8)


def residual_norm_reference(x: Tensor, y: Tensor, norm: Norm, factors: Tensor) -> Tensor:
    """layer_norm(x + dropout(y)), over the last axis."""
    return F.layer_norm(x + y * factors, x.shape[-1:], *norm)


def sampling_reference(
    offsets: Tensor,  # (B, Q, H, L, P, 2), in pixels or, for boxes, in halves of their sides, divided by P
    logits: Tensor,  # (B, Q, H, L, P)
    reference: Tensor,  # (B or 1, Q, L, 2) points or (B or 1, Q, L, 4) cxcywh boxes, 0..1 of the padded level
    pixel: Tensor,  # (L, 2), width and height of a level's pixel, in 0..1
) -> tuple[Tensor, Tensor]:
    """Sampling locations (B, Q, H, L, P, 2), 0..1 of the padded level, and attention weights (B, Q, H, L, P)."""
    reference = reference[:, :, None, :, None]
    half = reference[..., 2:] / 2 / offsets.shape[4]
    locations = reference[..., :2] + offsets * (half if reference.shape[-1] == 4 else pixel[:, None])
    return locations, logits.flatten(3).softmax(-1).view_as(logits)
