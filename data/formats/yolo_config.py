"""YOLO's data.yaml: the classes, and where the images of each split lie."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deformable_detr_refine.messages import described, one_line, printable
from deformable_detr_refine.yaml_text import read_yaml

from ..defects import DataError
from .image_files import files_in, inside
from .split_names import standard_split

_SPLITS = ("train", "val", "valid", "validation", "test")
_LARGEST_YAML = 2**20


@dataclass
class YoloSplit:
    """One split of a data.yaml: where its images are (folders, or lists of images), and the class names by number.

    `key_points` is how many numbers of key points follow a box; None where data.yaml tells of none.
    """

    config: Path
    places: list[str]
    names: dict[int, str]
    root: Path
    key_points: int | None = None


def find(source: Path) -> dict[str, YoloSplit]:
    """The splits of a data.yaml; none when there is none."""
    files, folder = ([source], None) if source.is_file() else (files_in(source, "*.y*ml"), source)
    configs = [(file, config) for file in files if (config := _config(file, folder)) is not None]
    if not configs:
        return {}
    if len(configs) > 1:
        raise DataError(f"{configs[0][0]} and {configs[1][0]} both describe a data set; give one of them.")
    file, config = configs[0]
    names = _names(config["names"], file)
    root = _root(config.get("path"), file)
    key_points = _key_points(config.get("kpt_shape"), file)
    splits: dict[str, YoloSplit] = {}
    for key in _SPLITS:
        places = config.get(key)
        places = [places] if isinstance(places, str) else places
        if not places:
            continue
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise DataError(f"{file}: {key} is {described(places)}, not a folder or a list of folders.")
        splits[standard_split(key) or key] = YoloSplit(file, places, names, root, key_points)
    return splits


def below(folder: Path, place: str, root: Path) -> Path | None:
    """The place in a folder, where it is there and below the root."""
    path = Path(os.path.abspath(folder / place))
    return path if path.exists() and path.is_relative_to(os.path.abspath(root)) else None


def _root(path: Any, file: Path) -> Path:
    """The folder that places are relative to: `path`, where that is below the file's folder, else that folder.

    An absolute `path` names the disk of whoever made the file.
    """
    folder = file.parent
    place = below(folder, path, folder) if isinstance(path, str) else None
    return place if place is not None and place.is_dir() else folder


def _config(file: Path, folder: Path | None) -> dict | None:
    """The content of a YAML file that has class names and a split; None for others.

    Args:
        file: the file.
        folder: the data folder that it was found in; None for one that was named.

    Raises:
        DataError: it is named like one, and no YAML, or leads out of the folder.
    """
    if file.suffix.lower() not in (".yaml", ".yml") or file.stat().st_size > _LARGEST_YAML:
        return None
    try:
        config = read_yaml(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        if file.stem in ("data", "dataset"):
            raise DataError(f"{_inside(folder, file)} is no YAML: {printable(one_line(error), 200)}.") from error
        return None
    if not (isinstance(config, dict) and config.get("names") and any(config.get(key) for key in _SPLITS)):
        return None
    _inside(folder, file)
    return config


def _inside(folder: Path | None, file: Path) -> Path:
    return file if folder is None else inside(folder, file)


def _names(names: Any, file: Path) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names):
        raise DataError(f"{file}: names is no list and no map from class numbers.")
    for number, name in names.items():
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise DataError(f"{file}: the name of class {number} is {described(name)}; put it in quotes.")
    return {number: str(name).strip() for number, name in names.items()}


def _key_points(shape: Any, file: Path) -> int | None:
    """How many numbers of key points follow a box, from kpt_shape: [points, 2 or 3]."""
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
        raise DataError(f"{file}: kpt_shape is {described(shape)}, expected [number of key points, 2 or 3].")
    return shape[0] * shape[1]


__all__ = ["YoloSplit", "below", "find"]
