"""The class heads of COCO's 80 classes among 91 outputs, one per category id, and back: rows of our own weights.

The first stage ranks its proposals by output 0, whatever that class is called, so its head keeps that row. With the
rows of the 80 ids there too it would rank by another output: 8 % of the proposals remained in a run.
"""

from collections.abc import Mapping

from torch import Tensor

from .label_names import COCO_IDS

# The logit of an id that means nothing: a probability of 2e-9.
_NEVER = -20.0
# Of the rows that follow the first stage's output 0.
_OTHERS = "model.first_stage.class_head.other_classes."
_OTHER_IDS = tuple(number - 1 for number in COCO_IDS[1:])


def keep_80(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of 91 outputs -> of the 80 classes, in the order of their ids."""
    return {name: tensor[list(rows)] if (rows := _rows(name)) else tensor for name, tensor in weights.items()}


def spread_to_91(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the 80 classes -> of 91 outputs; those without a class never find anything."""
    return {name: _spread(tensor, rows) if (rows := _rows(name)) else tensor for name, tensor in weights.items()}


def _rows(name: str) -> tuple[int, ...]:
    """Where the 80 classes' rows stand in a tensor of this name; empty where it has none."""
    if name.startswith("class_heads."):
        return COCO_IDS
    return _OTHER_IDS if name.startswith(_OTHERS) else ()


def _spread(tensor: Tensor, rows: tuple[int, ...]) -> Tensor:
    count = 91 if rows is COCO_IDS else 90
    spread = tensor.new_full((count, *tensor.shape[1:]), 0.0 if tensor.dim() > 1 else _NEVER)
    spread[list(rows)] = tensor
    return spread


__all__ = ["keep_80", "spread_to_91"]
