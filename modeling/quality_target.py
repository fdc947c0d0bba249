"""A classification loss whose target is the quality of the matched box, so that scores rank boxes by their overlap.

Source: Cai et al., Align-DETR (arXiv:2304.07527), section 3.2; with `power` 0 the target is that of VarifocalNet
(arXiv:2008.13367), section 3.2: the IoU alone.
"""

import torch.nn.functional as F
from torch import Tensor


def quality_loss(logits: Tensor, positives: tuple[Tensor, ...], iou: Tensor, power: float, gamma: float) -> Tensor:
    """Sum of the binary cross-entropy, in fp32: of a matched logit with its target, of others as in the focal loss.

    Args:
        logits: (..., K).
        positives: the indices, one tensor (M,) per dimension, of the matched logits.
        iou: (M,), of each one's box with its target's.
        power: the target is score ** power * iou ** (1 - power).
        gamma: all other logits have the target 0 and the weight score ** gamma.
    """

    def wrong(x: Tensor) -> Tensor:
        # Not sigmoid ** gamma, whose slope is infinite where sigmoid is 0 and gamma is below 1.
        return (gamma * F.logsigmoid(x)).exp() * F.softplus(x)

    logits = logits.float()
    matched = logits[positives]
    target = (matched.sigmoid() ** power * iou ** (1 - power)).detach()
    others = wrong(logits).sum() - wrong(matched).sum()
    return others + F.binary_cross_entropy_with_logits(matched, target, reduction="sum")
