"""Weights that need no file: each tensor is drawn from a generator that its own name and a seed start.

The numbers are those with which the goldens in tests/goldens were made, so every line of the recipe matters.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).parents[1] / "goldens"
_NORM = re.compile(r"norm|bn\d|\.gn|downsample\.1\.|input_proj\.\d+\.1\.")
_EMBEDDING = re.compile(r".*(level_embeds?|query_embed(ding)?\.weight|query_position_embeddings\.weight)")


def state_dict(shapes: dict[str, list[int]], seed: int = 0, shared_heads: bool = False) -> dict[str, Tensor]:
    """Weights under MMDetection 3.x's names.

    Args:
        shapes: name -> shape, in the checkpoint's order.
        seed: the goldens have 0.
        shared_heads: the plain variant's one head, listed once a layer: every copy is the last layer's.
    """
    last = max((_branch(name) for name in shapes if "_branches." in name), default=0)
    weights = {}
    for name, shape in shapes.items():
        is_copy = shared_heads and "_branches." in name
        drawn_as = name.replace(f"_branches.{_branch(name)}.", f"_branches.{last}.") if is_copy else name
        weights[name] = draw(drawn_as, tuple(shape), seed)
    return weights


def golden_state_dict(name: str) -> dict[str, Tensor]:
    """The weights of 'tiny_plain', 'r50_refine_twostage', ..."""
    shapes = json.loads((GOLDENS / f"{name}_shapes.json").read_text())
    return state_dict(shapes, shared_heads=name.endswith("_plain"))


def draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """One tensor: standard normal numbers, scaled so that a network of them neither fades nor explodes."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0, dtype=torch.long)
    start = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(start)).standard_normal(shape)
    x = torch.from_numpy(normal.astype(np.float32))
    if name.endswith("running_var"):
        return 0.75 + 0.5 * torch.sigmoid(x)
    if name.endswith("running_mean"):
        return 0.1 * x
    if name.endswith("weight") and _NORM.search(name):
        return 1 + 0.1 * x
    if name.endswith("sampling_offsets.bias"):
        return 2.0 * x
    if name.endswith("sampling_offsets.weight"):
        return 0.05 * x
    if ("cls_branches" in name or "class_embed" in name) and name.endswith("bias"):
        return -2.0 + 0.3 * x
    if x.dim() == 1:
        return 0.1 * x
    if x.dim() == 4:
        return x * (1.2 / (shape[1] * shape[2] * shape[3])) ** 0.5
    if _EMBEDDING.fullmatch(name):
        return x
    return x * (1.0 / shape[1]) ** 0.5


def _branch(name: str) -> int:
    return int(name.split("_branches.")[1].split(".")[0]) if "_branches." in name else -1
