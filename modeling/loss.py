"""The loss of every decoder layer and of the first stage, term for term MMDetection's."""

from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor

from .boxes import cxcywh_to_xyxy, generalized_iou, iou
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .focal_loss import focal_loss
from .matcher import Matches, Stage, match
from .quality_target import quality_loss
from .targets import Labels, targets_of


@torch.compiler.disable(reason="the matching is done on the CPU, and every batch has other numbers of boxes")
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
        FloatingPointError: predictions that are not finite, with the images they belong to. In training under fp16's
            autocast the loss is NaN instead: the gradient's scaler finds it, skips the step and lowers its scale.

    Source: mmdet/models/dense_heads/deformable_detr_head.py, detr_head.py.
    """
    targets = targets_of(labels, logits.shape[1], logits.shape[3], logits.device)
    layers = [*(f"d{index}." for index in range(len(logits) - 1)), ""]
    stages = [Stage(layers, logits, pred_boxes, targets.class_labels)]
    if encoder_logits is not None and encoder_pred_boxes is not None:
        foreground = [torch.zeros_like(classes) for classes in targets.class_labels]
        stages.insert(0, Stage(["enc_"], encoder_logits[None], encoder_pred_boxes[None], foreground))
    num_boxes = _num_boxes(labels, logits, num_items_in_batch, over_ranks)
    every_box = torch.cat(targets.boxes)
    terms: dict[str, Tensor] = {}
    try:
        matched = match(config, stages, targets, labels)
    except FloatingPointError:
        if not _has_scaler(logits.device.type):
            raise
        # Every head has its part in it: DDP waits for the gradient of each.
        lost = torch.nan * reduce(torch.add, (part.sum() for stage in stages for part in (stage.logits, stage.boxes)))
        kinds = ("loss_cls", "loss_bbox", "loss_iou")
        return lost, {f"{name}{kind}": lost for stage in stages for name in stage.names for kind in kinds}
    for stage, matches in zip(stages, matched, strict=True):
        classes = torch.cat(stage.class_labels)
        for name, of_logits, of_boxes, pairs in zip(stage.names, stage.logits, stage.boxes, matches, strict=True):
            of_layer = _layer_loss(config, of_logits, of_boxes, pairs, classes, every_box)
            terms |= {f"{name}{term}": value / num_boxes for term, value in of_layer.items()}
    return reduce(torch.add, terms.values()), terms


def _layer_loss(
    config: DeformableDetrRefineConfig,
    logits: Tensor,
    boxes: Tensor,
    matches: Matches,
    classes: Tensor,
    targets: Tensor,
) -> dict[str, Tensor]:
    """logits (B, Q, K), boxes (B, Q, 4), the batch's classes (N,) and targets (N, 4) -> the layer's sums, in fp32."""
    image, query, target = matches
    positives = image, query, classes[target]
    matched, targets = boxes[image, query].float(), targets[target]
    l1 = (matched - targets).abs().sum()
    corners = cxcywh_to_xyxy(matched), cxcywh_to_xyxy(targets)
    giou = generalized_iou(*corners)
    if config.quality_target is None:
        of_class = focal_loss(logits, positives, config.focal_alpha, config.focal_gamma)
    else:
        of_class = quality_loss(logits, positives, iou(*corners), config.quality_target, config.focal_gamma)
    return {
        "loss_cls": config.class_loss_coefficient * of_class,
        "loss_bbox": config.bbox_loss_coefficient * l1,
        "loss_iou": config.giou_loss_coefficient * (1 - giou).sum(),
    }


def _has_scaler(device: str) -> bool:
    """Whether this is a step in fp16, whose gradients nobody takes without a scaler."""
    in_fp16 = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return in_fp16 and torch.is_grad_enabled()


def _num_boxes(
    labels: Labels, logits: Tensor, num_items_in_batch: Tensor | int | None, over_ranks: bool
) -> Tensor | float:
    """What every term is divided by. Ranks are averaged because DDP averages their gradients.

    All boxes count, also those beyond the number of queries, which stay unmatched; MMDetection counts the matched ones.
    """
    if num_items_in_batch is not None:
        return torch.as_tensor(num_items_in_batch, dtype=torch.float32, device=logits.device).clamp(min=1)
    count = sum(len(target["class_labels"]) for target in labels)
    if not (over_ranks and dist.is_available() and dist.is_initialized()):
        return float(max(count, 1))
    num_boxes = torch.full((), float(count), device=logits.device)
    dist.all_reduce(num_boxes)
    # The sum is clamped, not the mean: a step with fewer boxes than ranks keeps its full gradient.
    return num_boxes.clamp(min=1) / dist.get_world_size()
