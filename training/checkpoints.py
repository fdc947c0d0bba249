"""Which checkpoint a run goes on from: the newest that is whole."""

import json
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def newest_whole_checkpoint(folder: Path, ranks: int = 1) -> Path | None:
    """The newest checkpoint in a run's folder that was written to its end, or None.

    A run may have been killed while it wrote one. The Trainer writes trainer_state.json last, and each rank the state
    of its random numbers: a checkpoint without either is left out.
    """
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if is_whole(path, ranks):
            return path
    return None


def is_whole(checkpoint: Path, ranks: int = 1) -> bool:
    """Whether this checkpoint was written to its end, for so many ranks."""
    random_states = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    needed = ["trainer_state.json", "optimizer.pt", "scheduler.pt", *random_states]
    if not all((checkpoint / name).is_file() for name in needed):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except ValueError:
        return False
    return True
