"""A foreign checkpoint as a detector, in one call."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from deformable_detr_refine.inference.detector import Detector

from .code_bases import CODE_BASES
from .convert import convert_place
from .download.cache import cache_folder
from .download.place import locate
from .mmdet_config.text import read_config_file
from .stock.folder import weight_parts


def detector_from(
    source: str | Path,
    code_base: str | None = None,
    *,
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    **options: Any,
) -> Detector:
    """A detector of a checkpoint of any code base: fetched if need be, converted into the cache, and loaded.

    The second time it is only loaded. `convert_checkpoint` does the same into a folder of one's own.

    Args:
        source, code_base, revision, options: as `convert_checkpoint` takes them.
        device, dtype: as `Detector` takes them.

    Raises:
        OSError, CheckpointError, ValueError: see `convert_checkpoint` and `Detector`.

    Example:
        detector = detector_from("r50-refine-twostage")
        found, = detector.detect(["photo.jpg"], threshold=0.5)
    """
    place = locate(source, revision)
    folder = cache_folder() / "detectors" / _key(place.path, code_base, options)
    if not folder.is_dir():
        convert_place(place, folder, code_base, **options)
    return Detector(folder, device, dtype)


def _key(path: Path, code_base: str | None, options: dict[str, Any]) -> str:
    """A name for what this version makes of these very files."""
    path = Path(os.path.abspath(path))
    files = sorted(path.rglob("*")) if path.is_dir() else [*weight_parts(path), *_beside(path)]
    options = {name: value for name, value in options.items() if value is not None}
    files += [Path(os.path.abspath(options[name])) for name in ("config", "classes") if name in options]
    # What a config builds on is in other files.
    config = Path(options.get("config", ""))
    bases = repr(read_config_file(config)) if config.suffix == ".py" else ""
    said = sorted((name, str(value)) for name, value in options.items())
    facts = [version("deformable-detr-refine"), code_base, bases, said]
    facts += [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return f"{path.stem[:60]}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def _beside(path: Path) -> list[Path]:
    return [path.with_name(name) for code_base in CODE_BASES.values() for name in code_base.beside]


__all__ = ["detector_from"]
