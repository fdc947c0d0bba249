"""Which checkpoint a run goes on from: the newest that is whole."""

import json
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a run's folder that was written to its end, or None.

    A run may have been killed while it wrote one. The Trainer writes trainer_state.json last: a checkpoint without it,
    or with half of it, is left out.
    """
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if is_whole(path):
            return path
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether this checkpoint was written to its end."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def has_random_state(checkpoint: Path, ranks: int) -> bool:
    """Whether it holds the random numbers' state of so many processes, no fewer and no more."""
    if ranks == 1:
        return (checkpoint / "rng_state.pth").is_file()
    return len(list(checkpoint.glob("rng_state_*.pth"))) == ranks
