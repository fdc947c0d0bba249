"""Which prediction answers for which target: the Hungarian matching of one layer's predictions."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .boxes import cxcywh_to_xyxy, generalized_iou
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .plain_calls import transformed


@torch.no_grad()
def match(
    config: DeformableDetrRefineConfig, logits: Tensor, boxes: Tensor, labels: list[dict[str, Tensor]], layer: str
) -> list[tuple[Tensor, Tensor]]:
    """Assign every target of every image to one prediction, at the least total cost.

    Args:
        config: gives the weights of the three costs: focal, L1 of cxcywh, generalised IoU.
        logits: (B, Q, K); boxes: (B, Q, 4) cxcywh in 0..1 of the image itself.
        labels: per image `class_labels` (N,) and `boxes` (N, 4), the same convention.
        layer: the layer's name, for the error.

    Returns:
        Per image, the indices of the matched predictions and of their targets, (min(N, Q),) each.

    Raises:
        FloatingPointError: when a prediction is not finite, with the images it belongs to.

    Source: HungarianAssigner and match_cost.py in mmdet/models/task_modules/assigners.
    """
    finite = torch.stack((logits.isfinite().flatten(1).all(1), boxes.isfinite().flatten(1).all(1)), -1).all(-1)
    costs = [
        _cost(config, logits[i].float(), boxes[i].float(), target["class_labels"], target["boxes"].float())
        for i, target in enumerate(labels)
    ]
    # One copy for the whole batch, since each waits for the device.
    flat = torch.cat([finite.float(), *(cost.flatten() for cost in costs)]).cpu()
    finite, *flat_costs = flat.split([len(labels), *(cost.numel() for cost in costs)])
    if not finite.all():
        raise FloatingPointError(_not_finite(finite.bool(), labels, layer))
    pairs = []
    for cost, flat_cost in zip(costs, flat_costs, strict=True):
        matrix = flat_cost.view(cost.shape)
        queries, targets = linear_sum_assignment(matrix.tolist() if transformed() else matrix.numpy())
        pairs.append((torch.as_tensor(queries, device=boxes.device), torch.as_tensor(targets, device=boxes.device)))
    return pairs


def _cost(config, logits: Tensor, boxes: Tensor, class_labels: Tensor, targets: Tensor) -> Tensor:
    """logits (Q, K), boxes (Q, 4), class_labels (N,), targets (N, 4) -> (Q, N)."""
    p = logits[:, class_labels].sigmoid()
    alpha, gamma = config.focal_alpha, config.focal_gamma
    positive = -(p + 1e-12).log() * alpha * (1 - p) ** gamma
    negative = -(1 - p + 1e-12).log() * (1 - alpha) * p**gamma
    l1 = torch.cdist(boxes, targets, p=1)
    giou = generalized_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(targets)[None])
    return config.class_cost * (positive - negative) + config.bbox_cost * l1 - config.giou_cost * giou


def _not_finite(finite: Tensor, labels: list[dict[str, Tensor]], layer: str) -> str:
    images = [
        f"{index} (image_id {_id(labels[index]['image_id'])})" if "image_id" in labels[index] else str(index)
        for index in (~finite).nonzero().flatten().tolist()
    ]
    return (
        f"Predictions of {layer} are not finite for image {', '.join(images)} of the batch: "
        "check these images and boxes, the learning rate and the precision."
    )


def _id(image_id) -> object:
    return image_id.item() if isinstance(image_id, Tensor) and image_id.numel() == 1 else image_id
