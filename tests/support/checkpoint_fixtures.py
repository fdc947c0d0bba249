"""Fixtures: checkpoints of MMDetection, to be imported in a conftest.py."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.golden_weights import GOLDENS, golden_state_dict

VARIANTS = ("plain", "refine", "refine_twostage")


@pytest.fixture(scope="session")
def tiny_weights() -> dict[str, dict[str, Tensor]]:
    """variant -> state dict in MMDetection 3.x's names; do not change it in place."""
    return {variant: golden_state_dict(f"tiny_{variant}") for variant in VARIANTS}


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, str]:
    return {variant: (GOLDENS / f"tiny_{variant}_config.py").read_text() for variant in VARIANTS}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """save(content) writes a checkpoint and gives its path."""

    def write(content: Any, name: str = "checkpoint.pth", **options: Any) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.fixture
def save_pickle(tmp_path: Path) -> Callable[[bytes], Path]:
    """save_pickle(bytes) writes a checkpoint in torch.save's zip format around a pickle of one's own."""

    def write(pickle: bytes) -> Path:
        path = tmp_path / "crafted.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle)
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
        return path

    return write


@pytest.fixture
def runner_checkpoint(tiny_weights, tiny_config) -> Callable[[str], dict[str, Any]]:
    """What a Runner of MMEngine saves for a variant, with five classes."""

    def build(variant: str) -> dict[str, Any]:
        meta = {"cfg": tiny_config[variant], "dataset_meta": {"CLASSES": tuple("abcde")}, "epoch": 12}
        return {"meta": meta, "state_dict": dict(tiny_weights[variant]), "optimizer": {"state": {}}}

    return build


@pytest.fixture
def shapes() -> Callable[[str], dict[str, list[int]]]:
    return lambda name: json.loads((GOLDENS / f"{name}_shapes.json").read_text())
