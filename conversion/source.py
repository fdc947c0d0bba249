"""What was read of a checkpoint, whatever code base wrote it: the form in which the common path goes on with it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable

from .facts import ConfigFacts
from .names import NameTable

# What a class that wraps a whole model puts before every name.
_WRAPPERS = ("module.", "model.")


@dataclass
class Files:
    """What a user gave, a file or a folder, as files.

    Attributes:
        weights: the file of weights.
        config: the config that lies with it, if the code base keeps it in a file of its own.
        names: class names that lie with it, and the name of the file they are in.
    """

    weights: Path
    config: Path | None = None
    names: tuple[list[str] | None, str] = (None, "")


@dataclass
class Weights:
    """The tensors of a checkpoint.

    Attributes:
        tensors: common name -> tensor (see `names`).
        written_as: common name -> name in the file.
        strangers: names in the file that the code base's model has not.
        spell: common name -> how the file would write it.
        told: fields of our configuration that second names of tensors tell.
    """

    tensors: dict[str, Tensor]
    written_as: dict[str, str]
    strangers: list[str]
    spell: Callable[[str], str]
    told: dict[str, bool] = field(default_factory=dict)

    def written(self, name: str) -> str:
        """A common name as the file has it, or would have it."""
        return printable(self.written_as.get(name) or self.spell(name))

    @property
    def names(self) -> list[str]:
        """All names of the file, without what wrapped them."""
        return [*self.written_as.values(), *self.strangers]


@dataclass
class Source:
    """
    Attributes:
        path: the file of weights.
        weights: its tensors.
        weights_from: which entry of the file they are.
        version: of the code base, as far as it can be told.
        facts: what the config says, or None without one.
        facts_from: where the config was found.
        names: candidates for the class names, best first, each with its origin.
        meta: what the file says about its own origin, plain values only.
        notes: what else a user should know.
        parts: the files of weights, where `path` is an index of several.
    """

    path: Path
    weights: Weights
    weights_from: str
    version: str | None = None
    facts: ConfigFacts | None = None
    facts_from: str | None = None
    names: list[tuple[list[str] | None, str]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)


def check_tensors(entry: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """An entry of a checkpoint as a state dict.

    Raises:
        CheckpointError: it holds something other than ordinary tensors with values of their own.
    """
    weights: dict[str, Tensor] = {}
    for name, value in entry.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise CheckpointError(
                f"{path}: {printable(str(name))} is a {kind}, not a tensor, so this is no state dict."
            )
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise CheckpointError(
                f"{path}: {printable(name)} is not an ordinary tensor (sparse, quantized or without data)."
            )
        # A tensor may repeat one value without end, and nothing honest does.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {printable(name)} has the shape {tuple(value.shape)}, but not so many values."
            )
        weights[name] = value.detach()
    return weights


def wrapper(names: list[str]) -> str:
    """What wrapping classes put before all of these names: '', 'module.', 'module.model.', ..."""
    prefix = ""
    for one in _WRAPPERS:
        if names and all(name.startswith(prefix + one) for name in names):
            prefix += one
    return prefix


def entry_of_training(content: dict[str, Any], path: Path) -> tuple[dict[Any, Any], str]:
    """The weights in what a training script saved: `model`, in forks `state_dict`, or the file itself.

    Raises:
        CheckpointError: there are none.
    """
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            return content[key], key
    if not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} has no weights (neither `model` nor `state_dict`).")
    return content, "the file itself (a bare state dict)"


def unwrapped(entry: dict[Any, Any], path: Path, own: str | None = None) -> dict[str, Tensor]:
    """Checked tensors, under names without what a wrapper of the model put before them.

    Args:
        own: how names of the model itself begin, where that is what a wrapper puts before them too.
    """
    tensors = check_tensors(entry, path)
    prefix = wrapper(list(tensors))
    if own and prefix.endswith(own) and not any(name.startswith(prefix + own) for name in tensors):
        prefix = prefix.removesuffix(own)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def rename(
    tensors: dict[str, Tensor],
    table: NameTable,
    path: Path,
    to_common: Callable[[str], str | None] | None = None,
    spell: Callable[[str], str | None] | None = None,
) -> Weights:
    """Tensors under common names; second names of a tensor are dropped where both hold the same.

    Args:
        tensors: a code base's names -> tensors.
        table: its names.
        path: for messages.
        to_common, spell: where the table's own do not suffice.

    Raises:
        CheckpointError: two names of the file mean one tensor, and it is not the same.
    """
    to_common, spell = to_common or table.to_common, spell or table.from_common
    weights = Weights({}, {}, [], lambda name: spell(name) or name)
    aliases: list[tuple[str, str]] = []
    for name, tensor in tensors.items():
        if re.fullmatch(table.ignored, name):
            continue
        alias = next((alias for alias in table.aliases if name.startswith(alias[0])), None)
        if alias is not None:
            aliases.append((name, alias[1] + name.removeprefix(alias[0])))
            weights.told[alias[2]] = True
        elif (common := to_common(name)) is None:
            weights.strangers.append(name)
        elif common in weights.tensors:
            raise CheckpointError(f"{path} holds {common} twice, as {weights.written_as[common]} and as {name}.")
        else:
            weights.tensors[common], weights.written_as[common] = tensor, name
    for name, first in aliases:
        common = to_common(first)
        if common is None:
            weights.strangers.append(name)
        elif common not in weights.tensors:
            weights.tensors[common], weights.written_as[common] = tensors[name], name
        elif not _equal(weights.tensors[common], tensors[name]):
            raise CheckpointError(
                f"{path}: {printable(name)} and {printable(first)} are two names of one tensor, but they differ."
            )
    return weights


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


__all__ = ["Files", "Source", "Weights", "check_tensors", "rename", "unwrapped", "wrapper"]
