"""Encoder and decoder layers, post-norm, as in mmdet/models/layers/transformer/deformable_detr_layers.py."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import DeformableAttention, SelfAttention
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .linear import Linear, LinearReLU

Shapes = Sequence[tuple[int, int]]


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, dropout after each."""

    def __init__(self, width: int, hidden: int, activation_dropout: float, dropout: float) -> None:
        super().__init__()
        self.fc1 = LinearReLU(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.activation_dropout = nn.Dropout(activation_dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.activation_dropout(self.fc1(x))))


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
        attended, locations, weights = self.self_attn(x + position, reference_points, x, shapes, token_mask)
        x = self.self_attn_norm(x + self.dropout(attended))
        return self.ffn_norm(x + self.ffn(x)), locations, weights


class DecoderLayer(GradientCheckpointingLayer):
    """Self-attention among the queries, deformable attention to the encoder's tokens, then a feed-forward."""

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = SelfAttention(width, config.decoder_attention_heads, config.attention_dropout)
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
        x = self.self_attn_norm(x + self.dropout(attended))
        attended, locations, weights = self.cross_attn(x + position, reference_points, tokens, shapes, token_mask)
        x = self.cross_attn_norm(x + self.dropout(attended))
        return self.ffn_norm(x + self.ffn(x)), locations, weights, self_weights
