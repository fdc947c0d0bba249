"""Whether a run may write into its folder, and which checkpoint there it goes on from: held before any work."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from deformable_detr_refine.files import check_writable

from .arguments import DetectionTrainingArguments
from .checkpoints import NUMBERED, fault_of, has_random_state, newest_whole_checkpoint

SETTINGS_FILE = "settings.yaml"
# What a dry run, a run that stopped before its first checkpoint, or a shell leave in the folder; a run writes over none
# of a person's own files.
HARMLESS = (".*", "dry_run.jpg", SETTINGS_FILE, "not-finite-step-*.pt", "runs", "*.log", "*.txt")
_TRUE = (True, "true", "True")
_UNSET = (None, False, "false", "False", "")


def checkpoint_to_resume(
    args: DetectionTrainingArguments, say: Callable[[str], Any] = lambda text: None
) -> Path | None:
    """The checkpoint to go on from, or None.

    Args:
        args: the run's.
        say: is told which checkpoints are not whole.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the folder holds another run, or the checkpoint is not whole or of another number of processes.
        OSError: the folder is a file, or nothing can be written in it.
    """
    output, asked = Path(args.output_dir), args.resume_from_checkpoint
    check_writable(output, "--output_dir")
    if asked not in (*_UNSET, *_TRUE):
        if not Path(asked).is_dir():
            raise FileNotFoundError(f"There is no checkpoint {asked} to resume from.")
        if fault := fault_of(Path(asked)):
            raise ValueError(f"{asked} is not whole ({fault}): copy it again, or go on from the one before it.")
        return Path(asked)
    if asked in _TRUE:
        checkpoint = newest_whole_checkpoint(output, args.world_size, say)
        if checkpoint and not has_random_state(checkpoint, args.world_size):
            raise ValueError(
                f"{checkpoint} was written by another number of processes than {args.world_size}: go on with as many, "
                f"or name it (--resume_from_checkpoint {checkpoint}) to go on with new random numbers."
            )
        return checkpoint
    if args.dry_run:
        return None
    if any(path.is_dir() and NUMBERED.fullmatch(path.name) for path in output.glob("*")):
        raise ValueError(
            f"{output} holds checkpoints of an earlier run: go on with --resume_from_checkpoint true, "
            "or choose another --output_dir."
        )
    held = sorted(path.name for path in output.iterdir()) if output.exists() else []
    if others := [name for name in held if not any(fnmatch(name, pattern) for pattern in HARMLESS)]:
        raise ValueError(
            f"{output} is not empty ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}): "
            "choose another --output_dir."
        )
    return None
