"""The focal loss of many predictions with few positives, summed. Its gradient is computed with it and kept instead.

Source: Lin et al., Focal Loss for Dense Object Detection (arXiv:1708.02002), equation 5.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .plain_calls import transformed


def focal_loss(logits: Tensor, positives: tuple[Tensor, ...], alpha: float, gamma: float) -> Tensor:
    """Sum of the sigmoid focal loss, in fp32.

    Args:
        logits: (..., K).
        positives: the indices, one tensor per dimension, of the logits whose target is 1; all others have 0.
    """
    return (
        _of_torch(logits, alpha, gamma, positives)
        if transformed()
        else _FocalLoss.apply(logits, alpha, gamma, *positives)
    )


def _of_torch(logits: Tensor, alpha: float, gamma: float, positives: tuple[Tensor, ...]) -> Tensor:
    def wrong(x: Tensor) -> Tensor:
        # Not sigmoid ** gamma, whose slope is infinite where sigmoid is 0 and gamma is below 1.
        return (gamma * F.logsigmoid(x)).exp() * F.softplus(x)

    logits = logits.float()
    chosen = logits[positives]
    return (1 - alpha) * (wrong(logits).sum() - wrong(chosen).sum()) + alpha * wrong(-chosen).sum()


class _FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, alpha: float, gamma: float, *positives: Tensor) -> Tensor:
        logits = logits.float()
        loss, slope = (part.mul_(1 - alpha) for part in _wrong(logits, gamma))
        of_positives, slope_of_positives = _wrong(-logits[positives], gamma)
        loss[positives] = alpha * of_positives
        slope[positives] = -alpha * slope_of_positives
        ctx.save_for_backward(slope)
        return loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        (slope,) = ctx.saved_tensors
        # autograd turns it into the logits' type.
        return (slope * grad, None, None, *(None for _ in ctx.needs_input_grad[3:]))


def _wrong(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """p ** gamma * -log(1 - p), the loss where a logit should be low, and its derivative."""
    p, cross_entropy = logits.sigmoid(), F.softplus(logits)
    weight = p**gamma
    slope = torch.addcmul(p, 1 - p, cross_entropy, value=gamma).mul_(weight)
    return weight.mul_(cross_entropy), slope
