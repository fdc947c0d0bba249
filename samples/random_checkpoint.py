"""Writes a full-size MMDetection checkpoint (R-50, refine two-stage, 80 classes) whose weights are drawn at random.

    python samples/random_checkpoint.py demo/checkpoint.pth

Every tensor is drawn from a generator that its own name starts, so the file needs no download and is always the same:
the one with which MMDetection 3.1.0 computed the numbers in tests/goldens. It has MMDetection's names, shapes and
config text; what it detects means nothing.
"""

import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1] / "tests"
NAME = "r50_refine_twostage"


def write_checkpoint(path: Path) -> None:
    """Writes the checkpoint in the form of MMEngine's published files: `meta` with the config, and `state_dict`."""
    sys.path.insert(0, str(TESTS))
    from support.golden_weights import golden_state_dict

    config = (TESTS / "goldens" / f"{NAME}_config.py").read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    torch.save({"meta": {"cfg": config}, "state_dict": golden_state_dict(NAME)}, new)
    new.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_checkpoint(Path(sys.argv[1]))
    print(f"Written: {sys.argv[1]}")
