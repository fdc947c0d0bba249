"""A checkpoint as MMDetection's Runner would save it, with the goldens' weights, which are drawn and not trained.

    python tests/golden_checkpoint.py r50_refine_twostage OUT.pth

The first argument names one of tests/goldens/*_config.py.
"""

import sys
from pathlib import Path

import torch
from golden_weights import GOLDENS, golden_state_dict


def golden_checkpoint(name: str) -> dict:
    """`meta`, with the config text, and `state_dict`, of 'tiny_plain', 'r50_refine_twostage', ..."""
    text = (GOLDENS / f"{name}_config.py").read_text(encoding="utf-8")
    return {"meta": {"cfg": text}, "state_dict": golden_state_dict(name)}


if __name__ == "__main__":
    torch.save(golden_checkpoint(sys.argv[1]), Path(sys.argv[2]))
