"""A state dict of MMDetection 3.x as ours, and back: `weights_from_3x(weights_to_3x(x)) == x`, bit for bit."""

import re
from collections.abc import Mapping

from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from ..weights import common_from_ours, ours_from_common, theirs_from_common
from .names import NAMES_3X

_NECK_BIAS = re.compile(r"model\.neck\.levels\.\d+\.conv\.bias")


def weights_from_3x(weights: Mapping[str, Tensor], config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
    """MMDetection 3.x's names and tensors -> ours.

    Raises:
        CheckpointError: a name that the model has no place for, or unequal copies of plain's one head.
    """
    common = {NAMES_3X.to_common(name): tensor for name, tensor in weights.items()}
    if None in common:
        name = next(name for name in weights if NAMES_3X.to_common(name) is None)
        raise CheckpointError(f"There is no place for {name} in the model.")
    return ours_from_common({name: tensor for name, tensor in common.items() if name}, config)


def weights_to_3x(weights: Mapping[str, Tensor], config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
    """Our names and tensors -> MMDetection 3.x's, in its order. Plain's one head is listed once per decoder layer.

    Raises:
        CheckpointError: the neck has a bias that is not zero, for which MMDetection 3.1 has no place.
    """
    kept = {name: tensor for name, tensor in weights.items() if not _NECK_BIAS.fullmatch(name)}
    for name, tensor in weights.items():
        if name not in kept and tensor.any():
            raise CheckpointError(f"MMDetection's neck has no bias, and {name} of this model is not zero.")
    return theirs_from_common(common_from_ours(kept, config, NAMES_3X), config, NAMES_3X)


__all__ = ["weights_from_3x", "weights_to_3x"]
