"""The files of a folder of transformers, opened without executing anything: weights in one file or many."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import other_kind
from deformable_detr_refine.inference.weight_index import weight_map_of
from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.messages import printable

from ..checkpoints.open_checkpoint import open_checkpoint

# The first that is there counts, as in transformers. Nothing else is opened: no training_args.bin, no optimizer.pt.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def model_type_of(folder: Path) -> Any:
    """What a folder's config.json says of its kind of model; None where there is no such file, or it says nothing."""
    config = folder / "config.json"
    return read_json(config).get("model_type") if config.is_file() else None


def weights_in(folder: Path) -> Path | None:
    """The folder's file of weights, or its index of several; None where it has none."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def weight_parts(path: Path) -> list[Path]:
    """The files that hold the weights: the one given, or those of an index, in its order.

    Raises:
        CheckpointError: it is no index, names something beyond its folder, or a file is missing.
    """
    if not path.name.endswith(".index.json"):
        return [path]
    return [path.parent / name for name in dict.fromkeys(weight_map_of(path).values())]


def open_weights(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, of a file of weights or of all that an index names.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a file is missing, damaged or of another kind, or does not hold what the index says.
    """
    parts = weight_parts(path)
    if parts == [path]:
        return _open(path)
    weight_map, weights = weight_map_of(path), {}
    for part in parts:
        tensors = _open(part)
        expected = {name for name, file in weight_map.items() if file == part.name}
        if tensors.keys() != expected:
            name = min(tensors.keys() ^ expected)
            raise CheckpointError(f"{part} does not hold what {path.name} says: {printable(str(name))} is in one only.")
        weights |= tensors
    return weights


def _open(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return open_checkpoint(path)
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise CheckpointError(f"{path} is empty: copy it again.")
    if kind := other_kind(start):
        raise CheckpointError(f"{path} {kind}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({printable(' '.join(str(error).split()), 200)}): copy it again."
        ) from error


__all__ = ["WEIGHT_FILES", "open_weights", "weight_parts", "weights_in"]
