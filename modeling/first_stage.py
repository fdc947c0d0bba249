"""The first stage: every token of the encoder proposes a box, and the best become the decoder's queries."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .boxes import inverse_sigmoid
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .heads import BoxHead, FirstStageClassHead
from .linear import linear
from .positions import sine_box_embedding
from .sparse_gradient import with_sparse_gradient


class Proposals(NamedTuple):
    """What the first stage hands on. Boxes are cxcywh in 0..1 of the image itself."""

    query: Tensor  # (B, Q, D)
    position: Tensor  # (B, Q, D)
    boxes: Tensor  # (B, Q, 4), without gradient
    all_logits: Tensor | None  # (B, S, K), when asked
    all_boxes: Tensor | None  # (B, S, 4), when asked


class FirstStage(nn.Module):
    """Scores every token's proposal and makes queries of the best.

    Source: section 4.2 of the paper; `pre_decoder` of mmdet/models/detectors/deformable_detr.py.
    """

    def __init__(self, config: DeformableDetrRefineConfig) -> None:
        super().__init__()
        width = config.d_model
        self.num_queries = config.num_queries
        self.memory_proj = nn.Linear(width, width)
        self.memory_norm = nn.LayerNorm(width)
        self.class_head = FirstStageClassHead(width, config.num_labels, config.focal_prior)
        self.box_head = BoxHead(width)
        # Half of a token's width for each of a box's four coordinates.
        self.query_proj = nn.Linear(2 * width, 2 * width)
        self.query_norm = nn.LayerNorm(2 * width)
        # Mixed query selection: only where a query looks comes from its proposal (DINO, arXiv:2203.03605, section 3.4).
        self.content = nn.Embedding(config.num_queries, width) if config.mixed_query_selection else None

    def forward(self, tokens: Tensor, proposals: Tensor, token_mask: Tensor | None, keep_all: bool) -> Proposals:
        """tokens (B, S, D), proposals (B or 1, S, 4) cxcywh in 0..1 of the image, token_mask (B, S) True on the image.

        Args:
            keep_all: also return the logits and boxes of every token, which the loss needs.

        Raises:
            ValueError: when there are fewer tokens than queries.
        """
        if tokens.shape[1] < self.num_queries:
            raise ValueError(
                f"The image gives {tokens.shape[1]} proposals, fewer than num_queries={self.num_queries}: "
                "use a larger image or a config with fewer queries."
            )
        valid = ((proposals > 0.01) & (proposals < 0.99)).all(-1, keepdim=True)
        if token_mask is not None:
            valid = valid & token_mask.unsqueeze(-1)
        memory = self.memory_norm(linear(tokens.masked_fill(~valid, 0), self.memory_proj))
        # An infinite logit stays infinite whatever the head adds: the box of an invalid token is (1, 1, 1, 1).
        anchors = inverse_sigmoid(proposals).masked_fill(~valid, torch.inf).expand(tokens.shape[0], -1, -1)

        all_logits = self.class_head(memory) if keep_all else None
        scores = (linear(memory, self.class_head.foreground) if all_logits is None else all_logits)[..., 0]
        best = scores.topk(self.num_queries, dim=1).indices.unsqueeze(-1)  # (B, Q, 1)
        if keep_all:
            all_boxes = (with_sparse_gradient(self.box_head, memory).to(anchors.dtype) + anchors).sigmoid()
            boxes = all_boxes.gather(1, best.expand(-1, -1, 4))
        else:
            all_boxes = None
            chosen = memory.gather(1, best.expand(-1, -1, memory.shape[-1]))
            boxes = (self.box_head(chosen).to(anchors.dtype) + anchors.gather(1, best.expand(-1, -1, 4))).sigmoid()
        boxes = boxes.detach()
        embedding = sine_box_embedding(boxes, tokens.shape[-1] // 2).to(tokens.dtype)  # (B, Q, 2 * D)
        position, query = self.query_norm(linear(embedding, self.query_proj)).chunk(2, dim=-1)
        if self.content is not None:
            query = self.content(torch.arange(self.num_queries, device=boxes.device).expand(boxes.shape[0], -1))
        return Proposals(query, position, boxes, all_logits, all_boxes)
