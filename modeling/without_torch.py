"""Where PyTorch, or what the model needs beside it, is missing: only exported detectors (.onnx) run there."""

from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import NoReturn

# Of what the model and its image processor need.
MISSING = [
    name
    for name in ("torch", "torchvision", "transformers", "timm", "scipy", "huggingface_hub", "safetensors")
    if find_spec(name) is None
]


def check_installed(what: str) -> None:
    """Says that something needs what is missing here.

    Raises:
        ImportError: something is.
    """
    if MISSING:
        raise ImportError(
            f"{what} needs {MISSING[0]}: pip install deformable-detr-refine "
            "(without it .onnx files can be used, nothing else)."
        )


def told_missing(module: str, names: Collection[str]) -> Callable[[str], NoReturn]:
    """A module's `__getattr__`, which says of these names why they are not there."""

    def getattr_of_module(name: str) -> NoReturn:
        if name in names:
            check_installed(name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return getattr_of_module


__all__ = ["MISSING", "check_installed", "told_missing"]
