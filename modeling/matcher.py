"""Which prediction answers for which target: the Hungarian matching of every layer's predictions, in one go."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .boxes import cxcywh_to_xyxy, generalized_iou
from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .plain_calls import transformed
from .targets import Labels, Targets, check_targets


class Stage(NamedTuple):
    """Predictions of layers with equally many queries, and which classes the B images' targets have there."""

    names: Sequence[str]  # of the L layers: enc_, d0., ...; the last has none
    logits: Tensor  # (L, B, Q, K)
    boxes: Tensor  # (L, B, Q, 4) cxcywh in 0..1 of the image itself
    class_labels: list[Tensor]  # (N,) for each image


class Matches(NamedTuple):
    """The pairs of one layer, (M,) each, M the sum of min(N, Q) over the images; `target` counts through the batch."""

    image: Tensor
    query: Tensor
    target: Tensor


@torch.no_grad()
def match(
    config: DeformableDetrRefineConfig, stages: Sequence[Stage], targets: Targets, labels: Labels
) -> list[list[Matches]]:
    """Assign every target of every image to one prediction, in each layer at the least total cost.

    An accelerator is waited for once: costs go down in one copy, pairs up in another. Of a target's costs only the N
    least go down: were it matched to another prediction, one of these would be free, as the N - 1 other targets cannot
    occupy all, and no worse.

    Args:
        config: gives the weights of the three costs: focal, L1 of cxcywh, generalised IoU.
        stages: the predictions.
        targets: the objects, on the predictions' device.
        labels: what they were made of; its `image_id` names an image in errors.

    Returns:
        For each stage the pairs of each layer.

    Raises:
        ValueError: unknown classes, or boxes that are not normalised.
        FloatingPointError: when a prediction is not finite, with the images it belongs to.

    Source: HungarianAssigner and match_cost.py in mmdet/models/task_modules/assigners.
    """
    finite = [stage.logits.isfinite().flatten(2).all(2) & stage.boxes.isfinite().flatten(2).all(2) for stage in stages]
    costs = [
        _least_costs(config, stage.logits[:, image], stage.boxes[:, image], classes, targets.boxes[image])
        for stage in stages
        for image, classes in enumerate(stage.class_labels)
    ]
    sound, *finite_and_costs = _on_host([targets.sound, *finite, *(part for pair in costs for part in pair)])
    check_targets(targets, sound.astype(bool).tolist(), stages[0].logits.shape[-1])
    for stage, each in zip(stages, finite_and_costs, strict=False):
        for name, images in zip(stage.names, each, strict=True):
            if not images.all():
                raise FloatingPointError(_not_finite(images, labels, name))
    found = iter(finite_and_costs[len(stages) :])
    first_target = np.cumsum([0, *(len(boxes) for boxes in targets.boxes)])
    pairs = []
    for stage in stages:
        layers = [[] for _ in stage.names]
        for image in range(len(labels)):
            values, queries = next(found).view(np.float32), next(found)  # (L, min(N, Q), N) each
            for layer, value, query in zip(layers, values, queries, strict=True):
                chosen, matched = _assigned(value, query)
                layer.append(np.stack((np.full_like(chosen, image), chosen, matched + first_target[image])))
        pairs += [np.concatenate(layer, 1) for layer in layers]
    device = targets.sound.device  # MPS reads such a copy after its source has gone
    on_device = torch.from_numpy(np.concatenate(pairs, 1)).to(device, non_blocking=device.type == "cuda")
    matches = iter([Matches(*layer) for layer in on_device.split([layer.shape[1] for layer in pairs], 1)])
    return [[next(matches) for _ in stage.names] for stage in stages]


def _least_costs(
    config: DeformableDetrRefineConfig, logits: Tensor, boxes: Tensor, class_labels: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """logits (L, Q, K), boxes (L, Q, 4), class_labels (N,), targets (N, 4) -> each target's min(N, Q) least costs and
    their predictions, (L, min(N, Q), N)."""
    # Unknown classes are reported when the device was waited for anyway.
    p = logits.float()[..., class_labels.clamp(0, logits.shape[-1] - 1)].sigmoid()
    alpha, gamma = config.focal_alpha, config.focal_gamma
    positive = -(p + 1e-12).log() * alpha * (1 - p) ** gamma
    negative = -(1 - p + 1e-12).log() * (1 - alpha) * p**gamma
    boxes = boxes.float().unsqueeze(2)
    l1 = (boxes - targets).abs().sum(-1)
    giou = generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))
    cost = config.class_cost * (positive - negative) + config.bbox_cost * l1 - config.giou_cost * giou  # (L, Q, N)
    least = cost.topk(min(cost.shape[1:]), dim=1, largest=False, sorted=False)
    return least.values, least.indices


def _on_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """All in one copy, as int32: whole numbers by value, fp32 by its bits."""
    flat = torch.cat([(t.view(torch.int32) if t.is_floating_point() else t.int()).flatten() for t in tensors]).cpu()
    host = np.array(flat.tolist(), np.int32) if transformed() else flat.numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])
    return [part.reshape(t.shape) for part, t in zip(np.split(host, ends[:-1]), tensors, strict=True)]


def _assigned(costs: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each target's least costs and their queries, (k, N) -> the optimum's queries and targets, (k,)."""
    candidates, rows = np.unique(queries, return_inverse=True)
    matrix = np.full((len(candidates), costs.shape[1]), np.inf)
    matrix[rows.reshape(queries.shape), np.arange(costs.shape[1])] = costs
    row, target = linear_sum_assignment(matrix)
    return candidates[row].astype(np.int64), target


def _not_finite(finite: np.ndarray, labels: Labels, layer: str) -> str:
    images = [
        f"{index} (image_id {_id(labels[index]['image_id'])})" if "image_id" in labels[index] else str(index)
        for index in np.flatnonzero(finite == 0)
    ]
    return (
        f"Predictions of {layer}loss are not finite for image {', '.join(images)} of the batch: "
        "check these images and boxes, the learning rate and the precision."
    )


def _id(image_id: object) -> object:
    return image_id.item() if isinstance(image_id, Tensor) and image_id.numel() == 1 else image_id
