"""From a model's outputs to the best detections of each image.

Source: _predict_by_feat_single in mmdet/models/dense_heads/detr_head.py.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import cxcywh_to_xyxy

Sizes = Tensor | Sequence[tuple[int, int] | Tensor]


def detections(
    logits: Tensor, boxes: Tensor, threshold: float, target_sizes: Sizes | None, top_k: int, clip_boxes: bool
) -> list[dict[str, Tensor]]:
    """The best (query, class) pairs of each image, best first; the arguments are the image processor's.

    Args:
        logits: (B, Q, K); what is no number is no detection. B may be 0.
        boxes: (B, Q, 4), cxcywh normalised by the image itself.
        threshold: keep scores above it.
        target_sizes: (height, width) of each original image; without it, boxes stay in 0..1 of the image.
        top_k: at most so many an image, before the threshold.
        clip_boxes: clip the boxes to the image.
    """
    logits, boxes = logits.float(), boxes.float()
    if target_sizes is not None and len(target_sizes) != len(logits):
        raise ValueError(f"{len(logits)} images came with {len(target_sizes)} target sizes; give one per image.")
    pairs = logits.sigmoid().flatten(1)  # (B, Q * K)
    pairs = pairs.masked_fill(pairs.isnan(), -math.inf)  # topk takes NaN for the largest
    scores, best = pairs.topk(min(top_k, pairs.shape[1]), dim=1)
    queries, labels = best // logits.shape[-1], best % logits.shape[-1]
    boxes = cxcywh_to_xyxy(boxes).gather(1, queries.unsqueeze(-1).expand(-1, -1, 4))
    if clip_boxes:
        boxes = boxes.clamp(0, 1)
    if target_sizes is not None:
        sizes = _size_pairs(target_sizes).to(boxes, non_blocking=boxes.device.type == "cuda")
        boxes = boxes * sizes.flip(-1).repeat(1, 2).unsqueeze(1)
    # Best first: what is kept comes before what is not. A GPU is waited for once.
    kept = (scores > threshold).sum(1).cpu().tolist()
    return [
        {"scores": s[:n], "labels": c[:n], "boxes": b[:n]}
        for s, c, b, n in zip(scores, labels, boxes, kept, strict=True)
    ]


def _size_pairs(target_sizes: Sizes) -> Tensor:
    """Pairs of (height, width) in whatever form -> (B, 2)."""
    if not isinstance(target_sizes, Tensor):
        pairs = [size.tolist() if isinstance(size, Tensor) else list(size) for size in target_sizes]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"target_sizes are pairs of (height, width), not {target_sizes}.")
        target_sizes = torch.tensor(pairs).reshape(-1, 2)
    if target_sizes.dim() != 2 or target_sizes.shape[1] != 2:
        raise ValueError(f"target_sizes are (B, 2), pairs of (height, width), not {tuple(target_sizes.shape)}.")
    return target_sizes


__all__ = ["detections"]
