"""Encoder and decoder: stacks of layers, and what passes between the layers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .boxes import inverse_sigmoid
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .heads import BoxHead
from .layers import DecoderLayer, EncoderLayer


class Pyramid(NamedTuple):
    """The flattened levels of a batch of images. Where nothing is padded, what is the same for all is there once."""

    tokens: Tensor  # (B, S, D)
    position: Tensor  # (B or 1, S, D)
    centres: Tensor  # (B or 1, S, 2), 0..1 of the image
    shapes: Sequence[tuple[int, int]]  # [(h, w)] * L
    token_mask: Tensor | None  # (B, S), True on the image; None when nothing is padded
    valid_ratios: Tensor  # (B or 1, L, 2), share of a level's width and height that the image takes


class EncoderOutput(NamedTuple):
    """`hidden_states` are what enters the first layer and what leaves each; tuples are empty unless asked for."""

    tokens: Tensor  # (B, S, D)
    hidden_states: tuple[Tensor, ...]
    sampling_locations: tuple[Tensor, ...]  # (B, S, H, L, P, 2) each
    attentions: tuple[Tensor, ...]  # (B, S, H, L, P) each


class DecoderOutput(NamedTuple):
    """Boxes are cxcywh in 0..1 of the image; the last three tuples are empty unless asked for."""

    hidden_states: tuple[Tensor, ...]  # (B, Q, D) each: what enters the first layer and what leaves each
    boxes: tuple[Tensor, ...]  # (B, Q, 4) each
    sampling_locations: tuple[Tensor, ...]  # (B, Q, H, L, P, 2) each
    cross_attentions: tuple[Tensor, ...]  # (B, Q, H, L, P) each
    attentions: tuple[Tensor, ...]  # (B, H, Q, Q) each, among the queries


class Encoder(nn.Module):
    """Deformable self-attention of all tokens of the pyramid, each around its own centre."""

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.encoder_layers)])

    def forward(self, pyramid: Pyramid, keep_hidden: bool, keep_attentions: bool) -> EncoderOutput:
        """Encodes the pyramid's tokens; `keep_hidden` and `keep_attentions` fill the output's tuples."""
        reference_points = pyramid.centres.unsqueeze(2) * pyramid.valid_ratios.unsqueeze(1)  # (B or 1, S, L, 2)
        x = pyramid.tokens
        hidden, locations, weights = [x], [], []
        for layer in self.layers:
            x, *attention = layer(x, pyramid.position, reference_points, pyramid.shapes, pyramid.token_mask)
            if keep_hidden:
                hidden.append(x)
            if keep_attentions:
                locations.append(attention[0])
                weights.append(attention[1])
        return EncoderOutput(x, tuple(hidden) if keep_hidden else (), tuple(locations), tuple(weights))


class Decoder(nn.Module):
    """Turns queries into boxes, layer by layer.

    With `with_box_refine` a layer starts from the box that the one before gave, cut off from its gradient; without,
    every layer predicts from the same points with the same head.
    """

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__()
        self.refine = config.with_box_refine
        self.eps = config.inverse_sigmoid_eps
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.decoder_layers)])
        # Queries that start as points need a first guess of a size: sigmoid(-2) = 0.12 of the image.
        self.box_heads = nn.ModuleList(
            [
                BoxHead(config.d_model, size_bias=0.0 if config.two_stage or index else -2.0)
                for index in range(config.decoder_layers if self.refine else 1)
            ]
        )

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        reference: Tensor,
        tokens: Tensor,
        pyramid: Pyramid,
        keep_attentions: bool,
    ) -> DecoderOutput:
        """query, position (B, Q, D); reference (B, Q, 2) points or (B, Q, 4) cxcywh, 0..1 of the image."""
        hidden, boxes, locations, cross_attentions, attentions = [query], [], [], [], []
        for index, layer in enumerate(self.layers):
            ratios = pyramid.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)  # (B or 1, L, 2 or 4)
            on_levels = reference.unsqueeze(2) * ratios.unsqueeze(1)  # (B, Q, L, 2 or 4), 0..1 of the padded level
            query, *attention = layer(
                query, position, on_levels, tokens, pyramid.shapes, pyramid.token_mask, keep_attentions
            )
            hidden.append(query)
            step = self.box_heads[index if self.refine else 0](query).to(reference.dtype)
            start = inverse_sigmoid(reference, self.eps)
            if start.shape[-1] == 2:
                boxes.append(torch.cat((step[..., :2] + start, step[..., 2:]), -1).sigmoid())
            else:
                boxes.append((step + start).sigmoid())
            if self.refine:
                reference = boxes[-1].detach()
            if keep_attentions:
                for kept, value in zip((locations, cross_attentions, attentions), attention, strict=True):
                    kept.append(value)
        return DecoderOutput(tuple(hidden), tuple(boxes), tuple(locations), tuple(cross_attentions), tuple(attentions))
