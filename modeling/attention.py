"""The two kinds of attention: deformable, to the levels of the pyramid, and plain, among the queries."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .linear import linear
from .ops import deformable_attention
from .sampling import sampling


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention: each query predicts where to look and how much each sample counts.

    Source: MultiScaleDeformableAttention in mmcv/ops/multi_scale_deform_attn.py; the paper's section 4.1.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def initial_offsets(self) -> Tensor:
        """(heads * levels * points * 2): a head looks in its own direction, its point p at p + 1 pixels (Chebyshev)."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        ring = torch.stack((angles.cos(), angles.sin()), -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        return (ring.view(self.heads, 1, 1, 2) * steps).repeat(1, self.levels, 1, 1).flatten()

    def forward(
        self,
        x: Tensor,  # (B, Q, D)
        position: Tensor,  # (B or 1, Q, D), counts for where to look
        reference_points: Tensor,  # (B or 1, Q, L, 2) points or (B, Q, L, 4) cxcywh boxes, 0..1 of the padded level
        tokens: Tensor,  # (B, S, D)
        spatial_shapes: Sequence[tuple[int, int]],
        token_mask: Tensor | None = None,  # (B, S), True on the image
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (B, Q, D), sampling locations (B, Q, H, L, P, 2) and attention weights (B, Q, H, L, P)."""
        B, S, D = tokens.shape
        value = linear(tokens, self.value_proj)
        if token_mask is not None:
            value = value.masked_fill(~token_mask.unsqueeze(-1), 0)
        locations, weights = sampling(
            x, position, self.sampling_offsets, self.attention_weights, reference_points, spatial_shapes, self.heads
        )
        output = deformable_attention(value.view(B, S, self.heads, D // self.heads), spatial_shapes, locations, weights)
        return linear(output, self.output_proj), locations, weights


class SelfAttention(nn.Module):
    """Multi-head attention among the queries of one image; the position counts for who looks at whom, not for what."""

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__()
        self.config = config  # whose attention implementation may change later
        width, self.heads, self.dropout = config.d_model, config.decoder_attention_heads, config.attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, position: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """x and position (B, Q, D) -> (B, Q, D) and, when asked, the weights (B, H, Q, Q)."""
        B, Q, D = x.shape
        query, key, value = (
            linear(source, proj).view(B, Q, self.heads, D // self.heads).transpose(1, 2)
            for proj, source in ((self.q_proj, x + position), (self.k_proj, x + position), (self.v_proj, x))
        )
        dropout = self.dropout if self.training else 0.0
        if return_weights or self.config._attn_implementation == "eager":
            weights = F.dropout((query @ key.mT / math.sqrt(D // self.heads)).softmax(-1), dropout)
            output = weights @ value
        else:
            weights, output = None, F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return linear(output.transpose(1, 2).reshape(B, Q, D), self.out_proj), weights if return_weights else None
