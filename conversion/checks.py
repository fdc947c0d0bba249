"""Every name, shape and value of a checkpoint is accounted for, in the file's own words."""

from collections.abc import Mapping

import torch
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from .source import Source

_SHOWN = 5


def check_values(source: Source) -> list[str]:
    """Check that all values are finite numbers.

    Returns:
        Notes on what the copy will change.

    Raises:
        CheckpointError: some are not.
    """
    changed: set[str] = set()
    for name, tensor in source.weights.tensors.items():
        counter = name.endswith("num_batches_tracked")
        if tensor.is_floating_point() == counter or tensor.is_complex():
            kind = "whole numbers" if counter else "floating-point numbers; save the model unquantized"
            raise CheckpointError(f"{source.path}: {source.weights.written(name)} holds {tensor.dtype}, not {kind}.")
        if counter:
            continue
        if tensor.dtype != torch.float32:
            changed.add(str(tensor.dtype).removeprefix("torch."))
        # One value that is not finite makes the sum so; counting is four times slower.
        if tensor.float().sum().isfinite():
            continue
        if bad := tensor.numel() - int(tensor.float().isfinite().sum()):
            raise CheckpointError(
                f"{source.path}: {bad} of the {tensor.numel()} values of {source.weights.written(name)} are not finite."
            )
    return [f"The source's {kind} values are stored as float32." for kind in sorted(changed)]


def check_names_and_shapes(source: Source, expected: Mapping[str, Tensor], config: DeformableDetrRefineConfig) -> None:
    """Check that a source has the very names and shapes of its code base's model.

    Args:
        source: what was read.
        expected: common name -> tensor of that shape.
        config: of the model, for the message.

    Raises:
        CheckpointError: it has others.
    """
    weights = source.weights
    missing = [weights.written(name) for name in expected if name not in weights.tensors]
    extra = [weights.written(name) for name in weights.tensors if name not in expected]
    extra += [printable(name) for name in weights.strangers]
    misshapen = [
        f"{weights.written(name)} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in weights.tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("not of this model", extra), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source.path} is no {config.variant} model with {config.backbone}: {'; '.join(problems)}."
        )


__all__ = ["check_names_and_shapes", "check_values"]
