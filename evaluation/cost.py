"""What a detector costs: parameters and operations, part by part, without computing anything."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection, use_backend


@dataclass(frozen=True)
class Part:
    """One part of a detector. `flops` counts a multiply-add as two operations."""

    name: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """A detector's parts in the order of the data's way, for one image of this size.

    `sampling_flops`, which the parts hold already, is what deformable attention itself does: reading and summing
    samples, without the linear layers around it.
    """

    parts: tuple[Part, ...]
    height: int
    width: int
    sampling_flops: int

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def flops(self) -> int:
        return sum(part.flops for part in self.parts)


def model_cost(model: DeformableDetrRefineForObjectDetection, height: int, width: int) -> Cost:
    """Counts the parameters of each part and the operations for one image of height x width pixels (as resized).

    Convolutions, matrix products and deformable attention are counted, a multiply-add as two operations; norms,
    activations and other passes over memory are not. The model runs on tensors without values, so that this takes a
    second whatever the size.

    Raises:
        ValueError: the image is too small for the model's queries, or the model is in int8.

    Example:
        >>> from deformable_detr_refine import DeformableDetrRefineConfig
        >>> model = DeformableDetrRefineForObjectDetection(DeformableDetrRefineConfig(num_labels=80))
        >>> cost = model_cost(model, 800, 1280)
        >>> f"{cost.parameters:,} parameters, {cost.flops / 1e9:.0f} GFLOPs"
        '41,213,836 parameters, 398 GFLOPs'
    """
    if model.config.int8:
        raise ValueError(
            "Operations in int8 are not counted: those of the detector that it was made from are the same."
        )
    ghost = deepcopy(model).to("meta").eval()
    sampling = torch.ops.deformable_detr_refine.deformable_attention
    counter = FlopCounterMode(display=False, custom_mapping={sampling: sampling_flops})
    # The reference backend would be counted as the PyTorch operators that it is made of.
    with use_backend(None), torch.no_grad(), counter:
        ghost(torch.empty(1, 3, height, width, device="meta", dtype=model.dtype))
    counts = counter.get_flop_counts()
    parts = tuple(
        Part(
            name,
            sum(_parameters(model, module) for module in has) - sum(_parameters(model, module) for module in lacks),
            sum(_flops(counts, model, module) for module in has)
            - sum(_flops(counts, model, module) for module in lacks),
        )
        for name, has, lacks in _parts(model)
    )
    cost = Cost(parts, height, width, counts["Global"].get(sampling, 0))
    if (cost.parameters, cost.flops) != (sum(p.numel() for p in model.parameters()), counter.get_total_flops()):
        raise AssertionError("The parts do not add up to the model.")
    return cost


def sampling_flops(value: tuple, shapes: object, locations: tuple, weights: tuple, **kwargs: object) -> int:
    """Operations of deformable attention, from the shapes of its inputs.

    A sample costs five multiply-adds a channel: four for the bilinear interpolation, one for the weighted sum.
    Source: the paper's section 4.1 (5 K C a query); arXiv:2010.04159.

    >>> sampling_flops((1, 6, 8, 32), None, (1, 100, 8, 4, 4, 2), (1, 100, 8, 4, 4))
    4096000
    """
    (*_, channels), (batch, queries, heads, levels, points, _) = value, locations
    return 2 * 5 * batch * queries * heads * levels * points * channels


def _parts(model: DeformableDetrRefineForObjectDetection) -> list[tuple[str, list[str], list[str]]]:
    """Name of each part, the modules that it holds, and the modules inside these that belong to another part."""
    boxes = [f"model.decoder.box_heads.{index}" for index in range(len(model.model.decoder.box_heads))]
    classes = [f"class_heads.{index}" for index in range(len(model.class_heads))]
    if model.config.two_stage:
        start = ("first stage", ["model.first_stage"], [])
    else:
        start = ("queries", ["model.query_embedding", "model.reference_points"], [])
    return [
        ("backbone", ["model.backbone"], []),
        ("neck", ["model.neck"], []),
        ("encoder", ["model.level_embed", "model.encoder"], []),
        start,
        ("decoder", ["model.decoder"], boxes),
        ("heads", boxes + classes, []),
    ]


def _parameters(model: torch.nn.Module, name: str) -> int:
    return sum(value.numel() for key, value in model.named_parameters() if key == name or key.startswith(f"{name}."))


def _flops(counts: Mapping[str, Mapping[object, int]], model: torch.nn.Module, name: str) -> int:
    return sum(counts.get(f"{type(model).__name__}.{name}", {}).values())


__all__ = ["Cost", "Part", "model_cost", "sampling_flops"]
