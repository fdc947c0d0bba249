"""Deformable attention without a compiler, on any device: the backend that remote code and unusual platforms get.

Forward is a gather and weighted sum of rows, which is what `embedding_bag` does; on a CPU it takes about a tenth of
`grid_sample`'s time. Backward works level by level on `grid_sample`'s own derivative and keeps no samples.
B batch, Q queries, S tokens, H heads, L levels, P points, C channels a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows of 4 * L * P indices and weights for one chunk stay in a core's second-level cache; 256 to 1024 measured alike.
CHUNK_QUERIES = 512


def torch_forward(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """value (B, S, H, C), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) -> (B, Q, H * C)."""
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
        chunk = slice(start, min(start + CHUNK_QUERIES, Q))
        x, y = (locations[:, chunk, ..., i].to(dtype).flatten(-2) for i in (0, 1))  # (B, q, H, L * P)
        x = torch.addcmul(x.new_tensor(-0.5), x, w.to(dtype))
        y = torch.addcmul(y.new_tensor(-0.5), y, h.to(dtype))
        x0, y0 = x.floor(), y.floor()
        x -= x0
        y -= y0
        attention = weights[:, chunk].to(dtype).flatten(-2)
        rows = torch.empty(*x.shape[:-1], 4, L * P, dtype=torch.int64, device=value.device)
        row_weights = torch.empty(rows.shape, dtype=dtype, device=value.device)
        for corner, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            cx, cy = x0 + dx, y0 + dy
            inside = (cx >= 0) & (cx < w) & (cy >= 0) & (cy < h)
            # Multiplied, not selected: a location that is not finite gives NaN, as in the reference.
            share = (x if dx else 1 - x) * (y if dy else 1 - y) * attention
            row_weights[..., corner, :] = share.mul_(inside)
            index = torch.where(inside, cy * w + cx, 0).to(torch.int64)
            rows[..., corner, :] = index.mul_(H).add_(base)
        bags = F.embedding_bag(
            rows.view(-1, 4 * L * P), table, per_sample_weights=row_weights.view(-1, 4 * L * P), mode="sum"
        )
        output[:, chunk] = bags.view(B, -1, H * C)
    return output


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
