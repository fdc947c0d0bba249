"""Box arithmetic. Every function says its convention; none of them depends on an image's size."""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> (..., 4) x0, y0, x1, y1, in the same units.

    Example:
        >>> cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.25, 0.5])).tolist()
        [0.375, 0.25, 0.625, 0.75]
    """
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - 0.5 * size, centre + 0.5 * size), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) x0, y0, x1, y1 -> (..., 4) centre x, centre y, width, height, in the same units."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat((0.5 * (low + high), high - low), -1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) x0, y0, width, height -> (..., 4) x0, y0, x1, y1, in the same units."""
    low, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((low, low + size), -1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of xyxy boxes, (..., 4) and (..., 4) broadcast against each other -> (...); 0 for a pair of empty boxes."""
    overlap, union, _ = _areas(a, b)
    return overlap / union.clamp(min=torch.finfo(a.dtype).tiny)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of xyxy boxes, (..., 4) and (..., 4) broadcast against each other -> (...).

    It does not change when an axis is scaled, so pixels and normalised coordinates give the same. A pair of empty
    boxes gives a finite number. Source: Rezatofighi et al., Generalized Intersection over Union (arXiv:1902.09630).
    """
    tiny = torch.finfo(a.dtype).tiny
    overlap, union, hull = _areas(a, b)
    return overlap / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap, union and hull of xyxy boxes."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)
    return overlap, area_a + area_b - overlap, hull


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of x in 0..1, finite at both ends. eps as in mmdet/models/layers/transformer/utils.py."""
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
