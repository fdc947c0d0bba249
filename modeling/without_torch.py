"""Where PyTorch, or what the model needs beside it, is missing: only exported detectors (.onnx) run there."""

import os
import sys
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import NoReturn

# What the model and its image processor need.
NEEDED = ("torch", "torchvision", "transformers", "timm", "scipy", "huggingface_hub", "safetensors")
# `ddetr` sets the variable for an .onnx file, for which PyTorch's import would only take seconds.
MISSING = [name for name in NEEDED if os.environ.get("DDETR_WITHOUT_TORCH") or find_spec(name) is None]


def needs(what: str, name: str) -> str:
    """The sentence on something that needs a package.

    Example:
        >>> needs("this", "torch")
        'this needs torch: pip install deformable-detr-refine (without it .onnx files run, nothing else).'
    """
    return f"{what} needs {name}: pip install deformable-detr-refine (without it .onnx files run, nothing else)."


def check_installed(what: str) -> None:
    """Says that something needs what is missing here.

    Raises:
        ImportError: something is.
    """
    if MISSING:
        raise ImportError(needs(what, MISSING[0]))


def told_missing(module: str, names: Collection[str]) -> Callable[[str], NoReturn]:
    """A module's `__getattr__`, which says of these names why they are not there."""

    def getattr_of_module(name: str) -> NoReturn:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # Of an AttributeError the statement `from module import name` would tell no more than the name.
        if sys._getframe(1).f_globals.get("__name__") == "importlib._bootstrap":
            check_installed(name)
        raise AttributeError(needs(name, MISSING[0]))

    return getattr_of_module


__all__ = ["MISSING", "NEEDED", "check_installed", "needs", "told_missing"]
