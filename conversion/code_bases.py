"""The code bases that are known, and which of them a file comes from."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from .checkpoints.open_checkpoint import open_checkpoint
from .code_base import CodeBase
from .detrex.code_base import Detrex
from .mmdet.code_base import MMDetection
from .original.code_base import Original
from .shapes import beginnings, looks_like
from .source import Files, Source, wrapper
from .stock.code_base import StockTransformers
from .stock.config import MODEL_TYPE
from .stock.folder import model_type_of

# The first whose mark a file bears is the one.
CODE_BASES: dict[str, CodeBase] = {
    code_base.name: code_base for code_base in (Original(), Detrex(), StockTransformers(), MMDetection())
}


def code_base_named(name: str) -> CodeBase:
    """
    Raises:
        ValueError: there is no such code base.
    """
    if name not in CODE_BASES:
        raise ValueError(f"There is no code base {name}; {', '.join(CODE_BASES)} are known.")
    return CODE_BASES[name]


def read_source(
    place: Path, given: CodeBase | None = None, config: Path | None = None, raw_weights: bool = False
) -> tuple[CodeBase, Source]:
    """A checkpoint, opened and read; the code base is found by looking if none is given.

    Raises:
        FileNotFoundError, CheckpointError: see `CodeBase.read`.
    """
    files, known = _find_files(place, given)
    content = known.open(files) if known else open_checkpoint(files.weights)
    seen, names = _seen_in(content, files.weights)
    if given and seen and given not in seen:
        raise CheckpointError(_not_of(given, f"{files.weights} is of {seen[0].title}"))
    if not (code_base := known or next(iter(seen), None)):
        raise CheckpointError(_unknown(files.weights, names))
    return code_base, code_base.read(files, content, config, raw_weights)


def _find_files(place: Path, given: CodeBase | None) -> tuple[Files, CodeBase | None]:
    """What a file or folder holds, and the code base if the folder's form tells it.

    Raises:
        FileNotFoundError: there is no such file or folder.
        CheckpointError: the folder has no form that is known, or is a converted model.
    """
    for code_base in [given] if given else CODE_BASES.values():
        if (files := code_base.files(place)) is not None:
            return files, code_base if code_base.signs_folders else given
    if given:
        for code_base in CODE_BASES.values():
            if (place.is_dir() or code_base.signs_folders) and code_base.files(place) is not None:
                raise CheckpointError(_not_of(given, f"{place} has the form of {code_base.title}"))
    if not place.is_dir():
        return Files(place), given
    raise CheckpointError(f"{place} {_instead(place)}.")


def _instead(folder: Path) -> str:
    """What a folder is that is not of a form that is known, as the end of a sentence."""
    kind = model_type_of(folder)
    if kind == DeformableDetrRefineConfig.model_type:
        return "is a converted model folder already (to go back: `ddetr convert --to` mmdet, original or transformers)"
    if (folder / "adapter_config.json").is_file():
        return (
            "holds an adapter and not the model that it changes: merge the two (peft's merge_and_unload), save the "
            "model with save_pretrained, and give that folder"
        )
    if kind not in (None, MODEL_TYPE):
        return f"is a folder of transformers, of a model of type {printable(str(kind))}"
    numbers = [int(number[1]) for path in folder.iterdir() if (number := re.fullmatch(r"checkpoint-(\d+)", path.name))]
    if numbers:
        return f"holds checkpoints of a training, of which it takes one: give {folder / f'checkpoint-{max(numbers)}'}"
    return (
        "holds no weights in a form that is known: config.json with model.safetensors, config.yaml with a .pth, a "
        "checkpoint.pth, or artifacts/*_weights.pth, as in an Azure MLflow model folder; give the file of weights"
    )


def _not_of(given: CodeBase, what: str) -> str:
    return f"{what}, not of {given.title}: drop --from {given.name}."


def _seen_in(content: dict[str, Any], path: Path) -> tuple[list[CodeBase], list[str]]:
    """The code bases whose names an opened file has, and all names of its weights."""
    seen, all_names = [], []
    for code_base in CODE_BASES.values():
        try:
            entry, _ = code_base.entry(content, path, raw_weights=False)
        except CheckpointError:
            continue
        weights = {name: value for name, value in entry.items() if isinstance(value, Tensor | np.ndarray)}
        names = [name for name in weights if isinstance(name, str)]
        names = [name.removeprefix(wrapper(names)) for name in names]
        if any(re.match(code_base.mark, name) for name in names):
            seen.append(code_base)
        all_names += names
    return seen, all_names


def _unknown(path: Path, names: list[str]) -> str:
    known = ", ".join(code_base.title for code_base in CODE_BASES.values())
    if not names:
        return f"{path} holds no weights of a model that can be converted (of {known})."
    other = looks_like(names)
    looks = f"it looks like {other}" if other else f"its names begin with {beginnings(names)}"
    return f"{path} is not a Deformable DETR of {known}: {looks}."


__all__ = ["CODE_BASES", "code_base_named", "read_source"]
