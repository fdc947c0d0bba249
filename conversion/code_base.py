"""What a code base has to say for itself, so that its checkpoints go the common path (`convert`, `export`)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)

from .checkpoints.open_checkpoint import open_checkpoint
from .names import NameTable
from .source import Files, Source
from .weights import common_from_ours, theirs_from_common


@dataclass
class Export:
    """What was written for another code base.

    Attributes:
        weights: its names -> tensors.
        notes: what its user should know, in sentences.
    """

    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


class CodeBase(ABC):
    """One code base in which Deformable DETR is published.

    Attributes:
        name: as `--from` and `--to` have it.
        title, possessive: as sentences have it: 'MMDetection', "MMDetection's".
        names: its names of weights.
        mark: pattern of names that its state dicts have and no other code base's.
        defaults: fields of our configuration that its users change, where neither shapes nor a config nor a flag tell.
        fields: those that are always so, or in all that is released, unless a config says otherwise.
        processor: settings of our image processor, likewise.
        signs_folders: a folder of its form says that it is its own.
        beside: names of files beside the weights that are read too.
        writes: what `--to` makes: a 'file', a 'folder', or None where it cannot.
    """

    name: str
    title: str
    possessive: str
    names: NameTable
    mark: str
    defaults: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    processor: dict[str, Any] = {}
    signs_folders: bool = False
    beside: tuple[str, ...] = ()
    writes: str | None = "file"

    def files(self, place: Path) -> Files | None:
        """The files of a folder, or around a file, that has this code base's form, or None.

        Raises:
            CheckpointError: it has, but something in it is missing or there twice.
        """
        return None

    def open(self, files: Files) -> dict[str, Any]:
        """What the file of weights holds.

        Raises:
            FileNotFoundError, CheckpointError: it is not there, or cannot be opened.
        """
        return open_checkpoint(files.weights)

    @abstractmethod
    def entry(self, content: dict[str, Any], path: Path, raw_weights: bool) -> tuple[dict[Any, Any], str]:
        """The state dict in an opened file, and what to call that entry.

        Raises:
            CheckpointError: there is none.
        """

    @abstractmethod
    def read(self, files: Files, content: dict[str, Any], config: Path | None, raw_weights: bool) -> Source:
        """Weights, config and class names.

        Args:
            files: as `files` found them, or the file that the user gave.
            content: of the file of weights, opened.
            config: the user's, wins over what lies with the weights.
            raw_weights: of a checkpoint with averaged weights, take the raw ones.

        Raises:
            FileNotFoundError, CheckpointError
        """

    def export(
        self,
        model: DeformableDetrRefineForObjectDetection,
        processor: DeformableDetrRefineImageProcessor,
        output: Path,
    ) -> Export:
        """Write a model in this code base's form.

        Raises:
            CheckpointError: this code base cannot hold it.
        """
        raise CheckpointError(f"Models cannot be written for {self.title}.")

    def theirs(self, weights: Mapping[str, Tensor], config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
        """Our names -> tensors as this code base's, in its order."""
        return theirs_from_common(common_from_ours(weights, config, self.names), config, self.names)

    def expected(self, config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
        """Common name -> tensor without values, of the model of this configuration as this code base has it."""
        # On the meta device names and shapes cost no memory, however large a crafted file pretends the model to be.
        with torch.device("meta"):
            model = DeformableDetrRefineForObjectDetection(config)
        return common_from_ours(model.state_dict(), config, self.names)


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """`torch.save`, which by itself refuses a name that is a dot, a word and no more, as that of a file aside."""
    with path.open("wb") as stream:
        torch.save(content, stream)


__all__ = ["CodeBase", "Export", "save_checkpoint"]
