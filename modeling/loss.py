"""The loss of every decoder layer and of the first stage, term for term MMDetection's."""

from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

from .boxes import cxcywh_to_xyxy, generalized_iou
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .focal_loss import focal_loss
from .matcher import match

Labels = list[dict[str, Tensor]]


def detection_loss(
    config: DeformableDetrRefineConfig,
    logits: Tensor,
    pred_boxes: Tensor,
    labels: Labels,
    encoder_logits: Tensor | None = None,
    encoder_pred_boxes: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    over_ranks: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Focal, L1 and generalised-IoU loss of every decoder layer and, when two-stage, of the encoder's proposals.

    Args:
        config: gives the weights of matcher and loss.
        logits: (layers, B, Q, K); pred_boxes: (layers, B, Q, 4) cxcywh in 0..1 of the image itself.
        labels: per image `class_labels` (N,) and `boxes` (N, 4), the same convention. N may be 0.
        encoder_logits: (B, S, K); encoder_pred_boxes: (B, S, 4): every token's proposal. Their target class is 0.
        num_items_in_batch: number of boxes to divide by, when the caller has counted over ranks and accumulation.
        over_ranks: without it, average the count over the processes; a collective, so all must call.

    Returns:
        The loss and its weighted terms, which add up to it, under MMDetection's names: `d0.loss_cls`, `d0.loss_bbox`,
        `d0.loss_iou`, ... of the first layers, `loss_cls`, ... of the last, `enc_loss_cls`, ... of the encoder.

    Raises:
        ValueError: labels that do not fit: another number of images, unknown classes, boxes that are not normalised.
        FloatingPointError: predictions that are not finite, with the images they belong to.

    Source: mmdet/models/dense_heads/deformable_detr_head.py, detr_head.py.
    """
    _check_labels(labels, *logits.shape[1::2])
    num_boxes = _num_boxes(labels, logits, num_items_in_batch, over_ranks)
    last = len(logits) - 1
    terms: dict[str, Tensor] = {}
    if encoder_logits is not None and encoder_pred_boxes is not None:
        proposals = [{**target, "class_labels": torch.zeros_like(target["class_labels"])} for target in labels]
        terms |= _layer_loss(config, encoder_logits, encoder_pred_boxes, proposals, num_boxes, "enc_")
    for index in range(len(logits)):
        prefix = "" if index == last else f"d{index}."
        terms |= _layer_loss(config, logits[index], pred_boxes[index], labels, num_boxes, prefix)
    return reduce(torch.add, terms.values()), terms


def _layer_loss(config, logits: Tensor, boxes: Tensor, labels: Labels, num_boxes, prefix: str) -> dict[str, Tensor]:
    """logits (B, Q, K), boxes (B, Q, 4) -> the layer's three terms. Everything is computed in fp32."""
    pairs = match(config, logits, boxes, labels, layer=f"{prefix}loss")
    image = torch.cat([torch.full_like(queries, i) for i, (queries, _) in enumerate(pairs)])
    query = torch.cat([queries for queries, _ in pairs])
    classes = torch.cat([target["class_labels"][matched] for target, (_, matched) in zip(labels, pairs, strict=True)])
    targets = torch.cat([target["boxes"][matched] for target, (_, matched) in zip(labels, pairs, strict=True)]).float()

    focal = focal_loss(logits, (image, query, classes), config.focal_alpha, config.focal_gamma)
    matched = boxes[image, query].float()
    l1 = (matched - targets).abs().sum()
    giou = generalized_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(targets))
    return {
        f"{prefix}loss_cls": config.class_loss_coefficient * focal / num_boxes,
        f"{prefix}loss_bbox": config.bbox_loss_coefficient * l1 / num_boxes,
        f"{prefix}loss_iou": config.giou_loss_coefficient * (1 - giou).sum() / num_boxes,
    }


def _num_boxes(labels: Labels, logits: Tensor, num_items_in_batch: Tensor | int | None, over_ranks: bool) -> Tensor:
    """What every term is divided by. Ranks are averaged because DDP averages their gradients.

    All boxes count, also those beyond the number of queries, which stay unmatched; MMDetection counts the matched ones.
    """
    if num_items_in_batch is not None:
        return torch.as_tensor(num_items_in_batch, dtype=torch.float32, device=logits.device).clamp(min=1)
    count = sum(len(target["class_labels"]) for target in labels)
    num_boxes = torch.tensor(float(count), device=logits.device)
    if not (over_ranks and dist.is_available() and dist.is_initialized()):
        return num_boxes.clamp(min=1)
    dist.all_reduce(num_boxes)
    # The sum is clamped, not the mean: a step with fewer boxes than ranks keeps its full gradient.
    return num_boxes.clamp(min=1) / dist.get_world_size()


def _check_labels(labels: Labels, images: int, classes: int) -> None:
    if len(labels) != images:
        raise ValueError(f"{images} images came with {len(labels)} labels; give a dict per image.")
    for index, target in enumerate(labels):
        class_labels, boxes = target["class_labels"], target["boxes"]
        if boxes.shape != (len(class_labels), 4):
            raise ValueError(
                f"labels[{index}]: boxes {tuple(boxes.shape)} do not go with {len(class_labels)} class labels; "
                "give (N, 4) and (N,)."
            )
        if not len(class_labels):
            continue
        # One question to the device for both. Half of a box may stand outside the image, no more: pixels or xyxy given
        # by mistake end here.
        fits = (class_labels >= 0).all() & (class_labels < classes).all()
        normalised = ((boxes >= 0) & (boxes <= 1.001)).all()
        if fits & normalised:
            continue
        if not fits:
            raise ValueError(
                f"labels[{index}]: class labels run from {class_labels.min()} to {class_labels.max()}, "
                f"but the model has classes 0 to {classes - 1}."
            )
        raise ValueError(
            f"labels[{index}]: boxes must be cxcywh normalised by the image itself, in 0..1; "
            f"found values from {boxes.min():.4g} to {boxes.max():.4g}."
        )
