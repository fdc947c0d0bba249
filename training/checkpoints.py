"""Which checkpoint a run goes on from: the newest that is whole."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from deformable_detr_refine.files import TORCH_WRITES, full_disk, new_path, sha256_of
from deformable_detr_refine.messages import counted, one_line, printable

# Written after all others: the size and the digest of every file.
MANIFEST = "manifest.json"
NUMBERED = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)")
_NUMBER, _TEXT, _NONE = (int, float), (str,), (type(None),)
# Of trainer_state.json: what the Trainer and the report compute with.
_STATE_TYPES = {
    **dict.fromkeys(("global_step", "max_steps"), (int,)),
    **dict.fromkeys(("epoch", "best_metric"), _NUMBER + _NONE),
    **dict.fromkeys(("train_batch_size", "best_global_step"), (int, *_NONE)),
    **dict.fromkeys(("total_flos", "num_input_tokens_seen"), _NUMBER),
    "best_model_checkpoint": _TEXT + _NONE,
    "log_history": (list,),
    "stateful_callbacks": (dict,),
}


def newest_whole_checkpoint(folder: Path, ranks: int = 1, say: Callable[[str], Any] = lambda text: None) -> Path | None:
    """The newest checkpoint in a run's folder that is whole, or None where the run has finished none.

    Args:
        folder: the run's.
        ranks: how many processes go on.
        say: is told which newer ones are not whole, and why.

    Raises:
        ValueError: there are finished checkpoints, of which none is whole any more.
    """
    numbered = [(int(match[1]), path) for path in folder.glob("*") if (match := NUMBERED.fullmatch(path.name))]
    newest_first, faults = [path for _, path in sorted(numbered, reverse=True)], {}
    for path in newest_first:
        if (fault := fault_of(path, ranks)) is None:
            break
        faults[path] = fault
    whole = next((path for path in newest_first if path not in faults), None)
    no_half = (None, f"{TRAINER_STATE_NAME} is no file")
    if whole is None and any((path / MANIFEST).exists() or _fault_of_state(path) in no_half for path in faults):
        path, fault = next(iter(faults.items()))
        raise ValueError(
            f"{path} is not whole ({fault}), nor is one before it: copy it again, or choose another --output_dir."
        )
    for path, fault in faults.items():
        say(f"{path} is not whole ({fault}): {'the one before it is taken' if whole else 'the run begins anew'}.")
    return whole


def fault_of(checkpoint: Path, ranks: int = 1) -> str | None:
    """Why a run cannot go on from this checkpoint, as it lies on the disk; None if it can.

    Its manifest, which is written last, tells every file's size and digest. One without a manifest is transformers'
    own, or was not finished: it needs the files that a Trainer writes, each to its end.
    """
    try:
        fault = _fault_of_state(checkpoint) or _missing(checkpoint)
        if fault is None:
            has_manifest = (checkpoint / MANIFEST).exists()
            fault = _changed(checkpoint) if has_manifest else _cut_short(checkpoint) or _unfinished(checkpoint, ranks)
        return fault
    except OSError as error:
        return printable(one_line(error), 200)


def read_trainer_state(checkpoint: Path) -> TrainerState:
    """What a checkpoint says of its run.

    Raises:
        ValueError: the file is missing, damaged, or says what no Trainer writes.
    """
    file = checkpoint / TRAINER_STATE_NAME
    if not file.is_file():
        raise ValueError(f"{file.name} is {'no file' if file.exists() else 'missing'}")
    try:
        state = TrainerState(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file.name} is damaged: {printable(one_line(error))}") from error
    for name, types in _STATE_TYPES.items():
        value = getattr(state, name)
        if not isinstance(value, types) or isinstance(value, bool) or (name == "global_step" and value < 0):
            raise ValueError(f"{file.name} is damaged: {name} is {printable(repr(value), 40)}")
    if not all(isinstance(line, dict) for line in state.log_history):
        raise ValueError(f"{file.name} is damaged: a line of log_history is no mapping")
    return state


def write_manifest(checkpoint: Path) -> None:
    """Writes down what the finished checkpoint holds; 512 MB, as of an R-50, took 1.1 s."""
    files = [file for file in sorted(checkpoint.rglob("*")) if file.is_file() and file.name != MANIFEST]
    content = {
        file.relative_to(checkpoint).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in files
    }
    with new_path(checkpoint / MANIFEST) as new:
        new.write_text(json.dumps(content, indent=1), encoding="utf-8")


def has_random_state(checkpoint: Path, ranks: int) -> bool:
    """Whether it holds the random numbers' state of so many processes, no fewer and no more."""
    if ranks == 1:
        return (checkpoint / "rng_state.pth").is_file()
    return len(list(checkpoint.glob("rng_state_*.pth"))) == ranks


@contextmanager
def writing(folder: Path, half: Path | None = None) -> Iterator[None]:
    """Within the block a disk that takes no more is one sentence, and the folder `half` gives way if it is not whole.

    Raises:
        OSError: `folder` could not be written.
    """
    try:
        yield
    except Exception as error:
        # PyTorch tells it as a RuntimeError of its writer, safetensors as an error of its own.
        place = full_disk(error, folder.parent)
        by_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in TORCH_WRITES)
        if not (place or by_torch or isinstance(error, OSError | SafetensorError)):
            raise
        reason = f"the disk of {place} is full" if place else printable(one_line(error), 200).rstrip(".")
        if half is not None and fault_of(half):
            shutil.rmtree(half, ignore_errors=True)
        raise OSError(
            f"{folder} could not be written ({reason}): what was written before it is kept; make room and go on with "
            "--resume_from_checkpoint true."
        ) from error


def _fault_of_state(checkpoint: Path) -> str | None:
    try:
        read_trainer_state(checkpoint)
    except ValueError as error:
        return str(error)
    return None


def _missing(checkpoint: Path) -> str | None:
    """Which of the files that a Trainer goes on with is not there, or is a pipe or a device."""
    if strange := [path.name for path in checkpoint.iterdir() if not (path.is_file() or path.is_dir())]:
        return f"{printable(strange[0])} is no file"
    if not [*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.bin"), *checkpoint.glob("pytorch_model_fsdp*")]:
        return "the weights are missing"
    if any(path.is_dir() and path.name.startswith(("global_step", "optimizer")) for path in checkpoint.iterdir()):
        return None  # DeepSpeed's and FSDP's own folders
    for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
        if not (checkpoint / name).is_file() and not (checkpoint / name).with_suffix(".bin").is_file():
            return f"{name} is missing"
    return None


def _changed(checkpoint: Path) -> str | None:
    """Which file is not as it was written."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        written = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return f"{MANIFEST} is damaged"
    for name, (size, digest) in written.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{printable(name)} is missing"
        if (there := file.stat().st_size) != size:
            return f"{printable(name)} has {counted(there, 'byte')} of {size}"
        if sha256_of(file) != digest:
            return f"{printable(name)} is not as it was written"
    return None


def _cut_short(checkpoint: Path) -> str | None:
    for file in sorted(checkpoint.iterdir()):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix in (".pt", ".pth") and not zipfile.is_zipfile(file):
                return f"{file.name} is cut short"
        except SafetensorError as error:
            return f"{file.name} is damaged: {printable(one_line(error))}"
    return None


def _unfinished(checkpoint: Path, ranks: int) -> str | None:
    """The other processes may not have come to writing theirs."""
    there = len(list(checkpoint.glob("rng_state_*.pth")))
    return (
        f"it has the random state of {there} of {counted(ranks, 'process', 'processes')}" if 0 < there < ranks else None
    )


__all__ = [
    "MANIFEST",
    "NUMBERED",
    "fault_of",
    "has_random_state",
    "newest_whole_checkpoint",
    "read_trainer_state",
    "write_manifest",
    "writing",
]
