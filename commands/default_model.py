"""The detector that comes with the package, for `ddetr detect` without a model's name."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

NAME = "blood-cells"


def model_and_images(words: Sequence[str], verb: str = "detect") -> tuple[str, list[str]]:
    """Takes the words of `ddetr VERB [MODEL] IMAGE...` apart; without MODEL the package's own, and says so.

    The first word is a model when it is a folder with a config.json or an MLmodel, an .onnx file, or a Hub name:
    OWNER/NAME where there is no such path, with more words after it.

    Raises:
        ValueError: a model without an image.
    """
    first, *rest = words
    path = Path(first)
    on_the_hub = first.count("/") == 1 and not path.exists() and not path.suffix and not first.startswith((".", "~"))
    of_a_model = any((path / name).is_file() for name in ("config.json", "MLmodel")) or path.suffix == ".onnx"
    if of_a_model or (on_the_hub and rest):
        if not rest:
            raise ValueError(f"{first} is a model: name an image too, or a folder of images.")
        return first, rest
    if rest and not path.exists() and not any(mark in first for mark in "*?[:"):
        # A model's name mistyped is likelier than an image's.
        return first, rest
    print(f"ddetr {verb}: no model is named, so the package's own looks for blood cells ({NAME}).", file=sys.stderr)
    return str(default_model()), list(words)


def default_model() -> Path:
    """The folder of the detector that comes with the package: of blood cells under the microscope.

    Raises:
        FileNotFoundError: this installation has none.
    """
    package = Path(find_spec("deformable_detr_refine").submodule_search_locations[0])
    # Installed it lies in the package, in a checkout with the samples.
    for folder in (package / NAME, package.parent / "samples" / NAME):
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError("This installation holds no detector of its own: name a model.")
