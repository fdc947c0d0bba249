"""What the models return. Boxes are cxcywh in 0..1 of the image itself, never of the padded batch."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils.generic import ModelOutput

# A ModelOutput wants a default for every field but one, also for those that are always filled.
_FILLED: Any = None


@dataclass
class DeformableDetrRefineModelOutput(ModelOutput):
    """Output of `DeformableDetrRefineModel`. B batch, Q queries, D width, S tokens, L levels, K classes.

    Always there: `last_hidden_state` (B, Q, D), `pred_boxes` (B, Q, 4), and of every decoder layer
    `intermediate_hidden_states` (layers, B, Q, D) and `intermediate_pred_boxes` (layers, B, Q, 4);
    `initial_reference_points` (B, Q, 2 or 4), where the decoder starts.
    The rest is described at `DeformableDetrRefineObjectDetectionOutput`.
    """

    last_hidden_state: Tensor = _FILLED
    pred_boxes: Tensor = _FILLED
    intermediate_hidden_states: Tensor = _FILLED
    intermediate_pred_boxes: Tensor = _FILLED
    initial_reference_points: Tensor = _FILLED
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_sampling_locations: tuple[Tensor, ...] | None = None
    decoder_sampling_locations: tuple[Tensor, ...] | None = None
    encoder_logits: Tensor | None = None
    encoder_pred_boxes: Tensor | None = None


@dataclass
class DeformableDetrRefineObjectDetectionOutput(ModelOutput):
    """Output of `DeformableDetrRefineForObjectDetection`. B batch, Q queries, D width, S tokens, H heads, P points.

    - with `labels`: `loss`, and `loss_dict`, its weighted terms under MMDetection's names;
    - `logits` (B, Q, K) and `pred_boxes` (B, Q, 4) of the last decoder layer;
    - on `output_hidden_states`: `intermediate_logits` (layers, B, Q, K), `intermediate_pred_boxes` (layers, B, Q, 4),
      `initial_reference_points` (B, Q, 4) cxcywh boxes when two-stage, else (B, Q, 2) points, 0..1 of the image;
      `encoder_last_hidden_state` (B, S, D), `encoder_hidden_states` and `decoder_hidden_states`: tuples, what enters
      the first layer and what leaves each;
    - on `output_attentions`, tuples with one entry per layer: `encoder_sampling_locations` (B, S, H, L, P, 2) and
      `decoder_sampling_locations` (B, Q, H, L, P, 2), (x, y) in 0..1 of the padded level;
      `encoder_attentions` and `cross_attentions`, the weights of these samples, the same without the last dimension;
      `decoder_attentions` (B, H, Q, Q), among the queries;
    - on `output_proposals`, when two-stage: `encoder_logits` (B, S, K) and `encoder_pred_boxes` (B, S, 4).
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor = _FILLED
    pred_boxes: Tensor = _FILLED
    intermediate_logits: Tensor | None = None
    intermediate_pred_boxes: Tensor | None = None
    initial_reference_points: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_sampling_locations: tuple[Tensor, ...] | None = None
    decoder_sampling_locations: tuple[Tensor, ...] | None = None
    encoder_logits: Tensor | None = None
    encoder_pred_boxes: Tensor | None = None
