"""Deformable attention without a compiler, on any device: the backend that remote code and unusual platforms get.

Forward is a gather and weighted sum of rows, which is what `embedding_bag` does; on a CPU it takes about a tenth of
`grid_sample`'s time. Elsewhere its many small steps would wait for each other, and the specification itself runs.
Backward works level by level on `grid_sample`'s own derivative and keeps no samples.
B batch, Q queries, S tokens, H heads, L levels, P points, C channels a head.
"""

import warnings
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops_reference import deformable_attention_reference

# Rows of 4 * L * P indices and weights for one chunk stay in a core's second-level cache; 256 to 1024 measured alike.
CHUNK_QUERIES = 512


def torch_forward(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """value (B, S, H, C), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) -> (B, Q, H * C)."""
    if value.device.type != "cpu":
        return deformable_attention_reference(value, spatial_shapes, locations, weights)
    (B, S, H, C), (_, Q, _, L, P, _) = value.shape, locations.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    table = value.to(dtype).reshape(B * S * H, C)
    sizes = torch.tensor(spatial_shapes, device=value.device)  # (L, 2)
    starts = F.pad(sizes.prod(1).cumsum(0)[:-1], (1, 0))
    h, w = (sizes[:, i].repeat_interleave(P) for i in (0, 1))  # (L * P,) each
    # A token's row in the table is (b * S + s) * H + head.
    base = starts.repeat_interleave(P) * H + torch.arange(H, device=value.device).unsqueeze(1)  # (H, L * P)
    base = base + (torch.arange(B, device=value.device) * (S * H)).view(B, 1, 1, 1)  # (B, 1, H, L * P)

    output = value.new_empty(B, Q, H * C)
    for start in range(0, Q, CHUNK_QUERIES):
        chunk = slice(start, start + CHUNK_QUERIES)
        x, y = (locations[:, chunk, ..., axis].to(dtype).flatten(-2) for axis in (0, 1))  # (B, q, H, L * P)
        attention = weights[:, chunk].to(dtype).flatten(-2)
        row_weights = torch.empty(*x.shape[:-1], 4, L * P, dtype=dtype, device=value.device)
        rows = torch.empty(row_weights.shape, dtype=torch.int64, device=value.device)
        corner = 0
        columns = _neighbours(x, w)
        for line, line_share in _neighbours(y, h):
            line = line.mul_(w).mul_(H).add_(base)
            line_share *= attention
            for column, column_share in columns:
                torch.add(line, column, alpha=H, out=rows[..., corner, :])
                torch.mul(line_share, column_share, out=row_weights[..., corner, :])
                corner += 1
        bags = F.embedding_bag(
            rows.view(-1, 4 * L * P), table, per_sample_weights=row_weights.view(-1, 4 * L * P), mode="sum"
        )
        output[:, chunk] = bags.view(B, -1, H * C)
    return output


def _neighbours(x: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Coordinates x (..., L * P) in 0..1 and the cells along their axis -> the two nearest cells and their shares.

    A cell outside gets a share of 0 and the number of one inside. A coordinate that is not finite gets shares of NaN,
    as in the reference; fmax and fmin, unlike clamp, turn its NaN into a number that can be an index.
    """
    x = torch.addcmul(x.new_tensor(-0.5), x, size.to(x.dtype))
    low = x.floor()
    fraction = x.sub_(low)
    neighbours = []
    for step, share in ((0, 1 - fraction), (1, fraction)):
        cell = low + step
        share = share.mul_((cell >= 0) & (cell < size))
        neighbours.append((cell.fmax(cell.new_zeros(())).fmin(size.to(x.dtype) - 1).to(torch.int64), share))
    return neighbours


def torch_backward(
    grad_output: Tensor, value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_output (B, Q, H * C) and forward's inputs -> the gradients of value, locations and weights."""
    (B, S, H, C), (_, Q, _, L, P, _) = value.shape, locations.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    levels = value.to(dtype).split([h * w for h, w in spatial_shapes], dim=1)
    grad = grad_output.to(dtype).view(B, Q, H, C).permute(0, 2, 3, 1).reshape(B * H, C, Q, 1)
    grad_value = torch.empty(value.shape, dtype=dtype, device=value.device)
    grad_locations, grad_weights = locations.new_empty(locations.shape), weights.new_empty(weights.shape)
    start = 0
    for level, (h, w) in enumerate(spatial_shapes):
        image = levels[level].permute(0, 2, 3, 1).reshape(B * H, C, h, w)
        points = (2 * locations[:, :, :, level].to(dtype) - 1).transpose(1, 2).reshape(B * H, Q, P, 2)
        attention = weights[:, :, :, level].to(dtype).transpose(1, 2).reshape(B * H, 1, Q, P)
        samples = F.grid_sample(image, points, align_corners=False)  # (B * H, C, Q, P)
        grad_weights[:, :, :, level] = (samples * grad).sum(1).view(B, H, Q, P).transpose(1, 2)
        grad_image, grad_points = torch.ops.aten.grid_sampler_2d_backward(
            grad * attention, image, points, 0, 0, False, (True, True)
        )
        grad_value[:, start : start + h * w] = grad_image.view(B, H, C, h * w).permute(0, 3, 1, 2)
        grad_locations[:, :, :, level] = 2 * grad_points.view(B, H, Q, P, 2).transpose(1, 2)
        start += h * w
    return grad_value.to(value.dtype), grad_locations, grad_weights


@cache
def warn_of_slow_form(device: str, reason: str) -> None:
    """Says once why an accelerator has no kernel of its own for this."""
    if device != "cpu":
        warnings.warn(f"Deformable attention on {device} runs as grid_sample, which is slow: {reason}.", stacklevel=2)
