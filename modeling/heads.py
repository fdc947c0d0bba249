"""What turns a token into class logits and a box."""

import math

import torch
from torch import Tensor, nn

from .linear import linear


class ClassHead(nn.Linear):
    """Logits, one a class. A new one gives every class the prior probability, so that the focal loss starts small.

    Source: section 4.1 of Focal Loss for Dense Object Detection (arXiv:1708.02002).
    """

    def __init__(self, width: int, classes: int, prior: float) -> None:
        super().__init__(width, classes)
        self.initial_bias = -math.log((1 - prior) / prior)


class FirstStageClassHead(nn.Module):
    """The first stage's class logits. Channel 0 alone ranks the proposals, and every target of the first stage is it.

    The channel has a layer of its own, for two reasons: an inference computes nothing else, and a checkpoint loaded
    with another number of classes (`num_labels=k, ignore_mismatched_sizes=True`) keeps its ranking of proposals.
    """

    def __init__(self, width: int, classes: int, prior: float) -> None:
        super().__init__()
        self.foreground = ClassHead(width, 1, prior)
        self.other_classes = ClassHead(width, classes - 1, prior) if classes > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> all logits (B, S, K), needed by the loss only."""
        foreground = linear(x, self.foreground)
        return foreground if self.other_classes is None else torch.cat((foreground, linear(x, self.other_classes)), -1)


class BoxHead(nn.Sequential):
    """Three linear layers to a step in the box's logits (x, y, w, h); a new one makes no step.

    Args:
        size_bias: what a new head adds to the logits of width and height: -2 for the very first box of a detector
            whose queries start as points, else 0.
    """

    def __init__(self, width: int, size_bias: float = 0.0) -> None:
        super().__init__(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )  # fmt: skip
        self.initial_bias = (0.0, 0.0, size_bias, size_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 4)."""
        for layer in self:
            x = linear(x, layer)
        return x
