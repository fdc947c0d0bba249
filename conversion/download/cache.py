"""Where what this package fetches is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`DDETR_CACHE`, else `deformable-detr-refine` in the user's cache (`XDG_CACHE_HOME` or `~/.cache`)."""
    if chosen := os.environ.get("DDETR_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deformable-detr-refine"


__all__ = ["cache_folder"]
