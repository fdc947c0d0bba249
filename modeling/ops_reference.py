"""The specification of deformable attention, in plain PyTorch: what every other backend is compared with."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention_reference(
    value: Tensor,  # (B, S, H, C)
    spatial_shapes: Sequence[tuple[int, int]],  # [(h, w)] * L, S = sum of h * w
    sampling_locations: Tensor,  # (B, Q, H, L, P, 2), (x, y) with 0..1 from edge to edge of the level
    attention_weights: Tensor,  # (B, Q, H, L, P)
) -> Tensor:  # (B, Q, H * C)
    """Weighted sum of bilinear samples: zero outside, pixel centres at +0.5, so x = 0.5 / w is the first centre.

    Computes in fp32 for values of 32 bits and less, in fp64 for fp64; the result has value's type.
    Source: equation 3 of Deformable DETR (arXiv:2010.04159).
    """
    (B, S, H, C), (_, Q, _, L, P, _) = value.shape, sampling_locations.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    levels = value.to(dtype).split([h * w for h, w in spatial_shapes], dim=1)
    grid = 2 * sampling_locations.to(dtype) - 1
    output = value.new_zeros(B * H, C, Q, dtype=dtype)
    for level, (h, w) in enumerate(spatial_shapes):
        image = levels[level].permute(0, 2, 3, 1).reshape(B * H, C, h, w)
        points = grid[:, :, :, level].transpose(1, 2).reshape(B * H, Q, P, 2)
        samples = F.grid_sample(image, points, mode="bilinear", padding_mode="zeros", align_corners=False)
        weights = attention_weights[:, :, :, level].to(dtype).transpose(1, 2).reshape(B * H, 1, Q, P)
        output = output + (samples * weights).sum(-1)  # (B * H, C, Q)
    return output.view(B, H * C, Q).transpose(1, 2).to(value.dtype)
