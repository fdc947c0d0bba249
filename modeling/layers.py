"""Encoder and decoder layers, post-norm, as in mmdet/models/layers/transformer/deformable_detr_layers.py."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import DeformableAttention, SelfAttention
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .feed_forward import FeedForward
from .residual_norm import residual_norm

Shapes = Sequence[tuple[int, int]]


class EncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention over all tokens of all levels, then a feed-forward."""

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = DeformableAttention(
            width, config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points
        )
        self.self_attn_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, config.encoder_ffn_dim, config.activation_dropout, config.dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, position: Tensor, reference_points: Tensor, shapes: Shapes, token_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, D), position (B or 1, S, D), reference_points (B or 1, S, L, 2) -> x, locations, weights."""
        attended, locations, weights = self.self_attn(x, position, reference_points, x, shapes, token_mask)
        x = residual_norm(x, attended, self.self_attn_norm, self.dropout)
        return self.ffn(x, self.ffn_norm), locations, weights


class DecoderLayer(GradientCheckpointingLayer):
    """Self-attention among the queries, deformable attention to the encoder's tokens, then a feed-forward."""

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = SelfAttention(config)
        self.self_attn_norm = nn.LayerNorm(width)
        self.cross_attn = DeformableAttention(
            width, config.decoder_attention_heads, config.num_feature_levels, config.decoder_n_points
        )
        self.cross_attn_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, config.decoder_ffn_dim, config.activation_dropout, config.dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,  # (B, Q, D)
        position: Tensor,  # (B, Q, D)
        reference_points: Tensor,  # (B, Q, L, 2 or 4)
        tokens: Tensor,  # (B, S, D)
        shapes: Shapes,
        token_mask: Tensor | None,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Returns x, sampling locations, cross-attention weights and, when asked, self-attention weights."""
        attended, self_weights = self.self_attn(x, position, return_weights)
        x = residual_norm(x, attended, self.self_attn_norm, self.dropout)
        attended, locations, weights = self.cross_attn(x, position, reference_points, tokens, shapes, token_mask)
        x = residual_norm(x, attended, self.cross_attn_norm, self.dropout)
        return self.ffn(x, self.ffn_norm), locations, weights, self_weights
