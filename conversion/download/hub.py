"""A checkpoint on the Hub: only its config and its weights are fetched, into huggingface_hub's cache."""

import fnmatch
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable

_CONFIGS = ["config.json", "preprocessor_config.json", "config.yaml"]
# The first kind of weights that is there is fetched. Whatever else lies there (optimisers, training_args.bin) is left.
_WEIGHTS = (
    ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"],
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"],
    # Of several the one that a training loop writes last.
    ["checkpoint.pth"],
    ["model_final.pth"],
    ["*.pth"],
)
_SHOWN = 6


def fetch_from_hub(name: str, revision: str | None = None) -> Path:
    """The folder of a model in the Hub's cache, with its config and weights.

    Raises:
        OSError: the Hub does not give it, and it is not in the cache.
        CheckpointError: it holds no weights in a form that is known, or several checkpoints, of which none is fetched.
    """
    at = f"{name} at revision {revision}" if revision else name
    try:
        weights = _weights_of(name, revision, at)
        with _bars(sys.stderr.isatty()):
            return Path(snapshot_download(name, revision=revision, allow_patterns=_CONFIGS + weights))
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


def _weights_of(name: str, revision: str | None, at: str) -> list[str]:
    """Which files of weights are needed, before any is fetched; none where the Hub does not say."""
    patterns = [pattern for kind in _WEIGHTS for pattern in kind]
    try:
        with _bars(False):
            listed = snapshot_download(name, revision=revision, allow_patterns=patterns, dry_run=True)
    except DryRunError:  # no network, or no such model, which the next call tells apart
        return []
    names = [file.filename for file in listed if "/" not in file.filename]
    weights = next((files for kind in _WEIGHTS if (files := _fitting(names, kind))), [])
    if not weights:
        raise CheckpointError(f"{at} on the Hub holds no weights in a form that is known.")
    if len(weights) > 1 and weights[0].endswith(".pth"):
        shown = ", ".join(map(printable, weights[:_SHOWN]))
        raise CheckpointError(
            f"{at} on the Hub holds {len(weights)} checkpoints ({shown}); give the address of one, as "
            f"{hf_hub_url(name, weights[0], revision=revision)}."
        )
    return weights


def _fitting(names: list[str], patterns: list[str]) -> list[str]:
    return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Bars or none, whether or not transformers' own are switched off, which takes the Hub's with them."""
    hidden = are_progress_bars_disabled()
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (disable_progress_bars if hidden else enable_progress_bars)()


__all__ = ["fetch_from_hub"]
