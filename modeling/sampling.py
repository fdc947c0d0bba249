"""Where the queries of deformable attention sample each level, and how much each sample counts.

B batch, Q queries, D width, H heads, L levels, P points.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fused_passes import SamplingShape, fused_path_applies, fused_sampling, fused_sampling_backward
from .linear import linear, product, worth_onednn
from .positions import pixel_sizes

# Queries whose offsets and logits stay in the processor's cache.
_CHUNK = 1024


def sampling(
    x: Tensor,  # (B, Q, D)
    position: Tensor,  # (B or 1, Q, D), added to x
    offsets: nn.Module,  # to H * L * P * 2 numbers, in pixels or, for boxes, in halves of their sides, divided by P
    logits: nn.Module,  # to H * L * P numbers
    reference: Tensor,  # (B or 1, Q, L, 2) points or (B or 1, Q, L, 4) cxcywh boxes, 0..1 of the padded level
    spatial_shapes: Sequence[tuple[int, int]],
    heads: int,
) -> tuple[Tensor, Tensor]:
    """Returns locations (B, Q, H, L, P, 2), 0..1 of the padded level, and weights (B, Q, H, L, P)."""
    shapes = tuple((h, w) for h, w in spatial_shapes)  # hashable, whatever they came as
    L, sides = len(shapes), reference.shape[-1]
    ours = reference.dtype == torch.float32 and not reference.requires_grad
    if (
        ours
        and type(offsets) is nn.Linear
        and type(logits) is nn.Linear
        and fused_path_applies(x, offsets, logits)
        and worth_onednn(x, offsets)
    ):
        points = logits.out_features // (heads * L)
        pixel = pixel_sizes(shapes, x.device) if sides == 2 else None
        weight, bias = torch.cat((offsets.weight, logits.weight)), torch.cat((offsets.bias, logits.bias))
        return _Sampling.apply(
            x, position, weight, bias, reference.contiguous(), SamplingShape(heads, L, points, pixel)
        )
    query = x + position
    steps, weights = linear(query, offsets), linear(query, logits)
    points = weights.shape[-1] // (heads * L)
    shape = (*x.shape[:2], heads, L, points)
    # Half-precision offsets would move samples by up to a third of a pixel: coordinates are at least fp32.
    steps = steps.view(*shape, 2).to(reference.dtype)
    weights = weights.view(*shape[:3], L * points).softmax(-1).view(shape)
    reference = reference[:, :, None, :, None]  # (B or 1, Q, 1, L, 1, 2 or 4)
    if sides == 2:
        pixel = pixel_sizes(shapes, x.device).to(reference.dtype).view(L, 1, 2)
        return torch.addcmul(reference, steps, pixel), weights
    return torch.addcmul(reference[..., :2], steps, reference[..., 2:] * (0.5 / points)), weights


class _Sampling(torch.autograd.Function):
    """Both layers as one, chunk by chunk of queries; keeps nothing of its own but the weights."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, position: Tensor, weight: Tensor, bias: Tensor, reference: Tensor, shape: SamplingShape
    ):
        samples = (*x.shape[:2], shape.heads, shape.levels, shape.points)
        locations, weights = x.new_empty(*samples, 2), x.new_empty(samples)
        for image, part, first in _parts(x):
            raw = product(_query(x, position, image, part), weight, bias)
            fused_sampling(raw, reference, shape, locations[image, part], weights[image, part], first)
        ctx.save_for_backward(x, position, weight, reference, weights)
        ctx.sampling_shape = shape
        return locations, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_locations: Tensor, grad_weights: Tensor):
        x, position, weight, reference, weights = ctx.saved_tensors
        grad_locations, grad_weights = grad_locations.contiguous(), grad_weights.contiguous()
        grad_query, grad_weight = x.new_empty(x.shape), torch.zeros_like(weight)
        grad_bias = weight.new_zeros(len(weight))
        for image, part, first in _parts(x):
            here = image, part
            to_raw = fused_sampling_backward(
                grad_locations[here], grad_weights[here], weights[here], reference, ctx.sampling_shape, first
            )
            torch.mm(to_raw, weight, out=grad_query[image, part])
            grad_weight.addmm_(to_raw.t(), _query(x, position, image, part))
            grad_bias += to_raw.sum(0)
        grad_position = grad_query if len(position) == len(x) else grad_query.sum(0, keepdim=True)
        return grad_query, grad_position, grad_weight, grad_bias, None, None


def _parts(x: Tensor) -> Iterator[tuple[int, slice, int]]:
    """An image, some of its queries, and the first one's number in the batch."""
    for image in range(x.shape[0]):
        for first in range(0, x.shape[1], _CHUNK):
            yield image, slice(first, first + _CHUNK), image * x.shape[1] + first


def _query(x: Tensor, position: Tensor, image: int, part: slice) -> Tensor:
    return x[image, part] + position[image % len(position), part]
