"""A checkpoint on the Hub: only its config and its weights are fetched, into huggingface_hub's cache."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from deformable_detr_refine.errors import CheckpointError

_CONFIGS = ["config.json", "preprocessor_config.json", "config.yaml"]
# The first kind of weights that is there is fetched. Whatever else lies there (optimisers, training_args.bin) is left.
_WEIGHTS = (
    ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"],
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"],
    ["*.pth"],
)


def is_hub_name(source: str) -> bool:
    """Whether this has the form OWNER/NAME, and not that of a path or a file of weights.

    Example:
        >>> is_hub_name("SenseTime/deformable-detr"), is_hub_name("runs/epoch_50.pth"), is_hub_name("./a/b")
        (True, False, False)
    """
    suffixes = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".safetensors", ".onnx")
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None and not source.lower().endswith(suffixes)


def fetch_from_hub(name: str, revision: str | None = None) -> Path:
    """The folder of a model in the Hub's cache, with its config and weights.

    Raises:
        OSError: the Hub does not give it, and it is not in the cache.
        CheckpointError: it holds no weights in a form that is known.
    """
    at = f"{name} at revision {revision}" if revision else name
    try:
        for weights in _WEIGHTS:
            with _progress():
                folder = Path(snapshot_download(name, revision=revision, allow_patterns=_CONFIGS + weights))
            if any(True for pattern in weights for _ in folder.glob(pattern)):
                return folder
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"There is no model {name} here, nor one on the Hub that you may read.") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"The Hub has no {at}.") from error
    except HFValidationError as error:
        raise CheckpointError(f"{name} is no name of the Hub: {error}") from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"There is no file or folder {name}; it is not in the Hub's cache here, and the Hub cannot be reached. "
            f"Where there is a network, `hf download {name}` fetches it; give the folder."
        ) from error
    raise CheckpointError(f"{at} on the Hub holds no weights in a form that is known.")


@contextmanager
def _progress() -> Iterator[None]:
    """Bars on a terminal, also where transformers' own are switched off, which takes the Hub's with them."""
    hidden = are_progress_bars_disabled()
    (enable_progress_bars if sys.stderr.isatty() else disable_progress_bars)()
    try:
        yield
    finally:
        (disable_progress_bars if hidden else enable_progress_bars)()


__all__ = ["fetch_from_hub", "is_hub_name"]
