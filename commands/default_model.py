"""The detector that comes with the package, for `ddetr detect` without a model's name."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .images import find_images

NAME = "blood-cells"
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".safetensors")


def model_and_images(words: Sequence[str], verb: str = "detect") -> tuple[str, list[str]]:
    """Takes the words of `ddetr VERB [MODEL] IMAGE...` apart; without MODEL the package's own, and says so.

    The first word is a model when it is a folder with a config.json or an MLmodel, an .onnx file, or a Hub name:
    OWNER/NAME where there is no such path, with more words after it.

    Raises:
        ValueError: a model without an image, or something that is neither.
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
    _check_images(words, verb)
    print(f"ddetr {verb}: no model is named, so the package's own looks for blood cells ({NAME}).", file=sys.stderr)
    return str(default_model()), list(words)


def spare_torch(model: str) -> None:
    """Of an .onnx file, which runs without PyTorch: that is not imported, here and in processes that are started."""
    if Path(model).suffix == ".onnx" and "torch" not in sys.modules:
        os.environ["DDETR_WITHOUT_TORCH"] = "1"


def _check_images(words: Sequence[str], verb: str) -> None:
    """Check that nothing is left to the package's own detector that was meant as a model."""
    for word in words:
        path = Path(word)
        if path.suffix.lower() in CHECKPOINTS and path.is_file():
            raise ValueError(
                f"{word} is a checkpoint, no image: `ddetr convert {word} FOLDER` makes a model folder of it, which "
                f"`ddetr {verb} FOLDER IMAGE` takes."
            )
        if path.suffix == ".onnx" or (path / "config.json").is_file():
            raise ValueError(f"{word} is a model, which stands before the images: ddetr {verb} {word} IMAGE ...")
    if len(words) > 1 and Path(words[0]).is_dir() and not _holds_images(words[0]):
        raise ValueError(f"The folder {words[0]} holds neither a model (config.json) nor images.")


def _holds_images(folder: str) -> bool:
    try:
        return bool(find_images([folder]))
    except (OSError, ValueError):
        return False


def default_model() -> Path:
    """The folder of the detector that comes with the package: of blood cells under the microscope.

    Raises:
        FileNotFoundError: this installation has none.
    """
    spec = find_spec("deformable_detr_refine")
    package = Path((spec and spec.origin) or ".").parent
    # Installed it lies in the package, in a checkout with the samples.
    for folder in (package / NAME, package.parent / "samples" / NAME):
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError("This installation holds no detector of its own: name a model.")


def default_images() -> list[Path]:
    """Photos for the detector that comes with the package; none where the installation has none."""
    folder = default_model()
    # Installed they lie in its folder, in a checkout beside it.
    return sorted(file for place in (folder, folder.parent / "images") for file in place.glob("BloodImage_*.jpg"))
