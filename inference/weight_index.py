"""The index of weights that lie in several files."""

from pathlib import Path

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.messages import printable


def weight_map_of(index: Path) -> dict[str, str]:
    """Name of a tensor -> name of the file beside the index that holds it.

    Raises:
        CheckpointError: it is no index, names something beyond its folder, or a file is missing.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map from names to files.")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map has something other than file names.")
    for name in dict.fromkeys(weight_map.values()):
        if Path(name).name != name or "\\" in name or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{index} names {printable(name)}, which is no file of weights in its own folder.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {printable(name)}, which is not there: copy the whole folder again.")
    return weight_map


__all__ = ["weight_map_of"]
