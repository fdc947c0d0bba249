"""Fixtures: a small detector with random weights, its inputs, and the sample images."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.goldens_mmdet import NO_DROPOUT, golden_config
from support.small_detector import save_small_detector

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.machine import usable_cores

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # processes of tests side by side share the cores
    torch.set_num_threads(max(1, usable_cores() // int(workers)))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # for what the tests start

TINY_SIZE = {"shortest_edge": 200, "longest_edge": 333}


def pytest_collection_modifyitems(items) -> None:
    """Side by side, files with slow tests come first: else one process would wait for the other's last file."""
    if workers:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except OSError as error:
        if getattr(error, "winerror", None) == 1314:  # a link was to be made
            pytest.skip("Windows makes links only for those who have the right")
        raise


@pytest.fixture(scope="module", autouse=True)
def path_of_imports() -> Iterator[None]:
    """MLflow puts the code of each model that it loads onto it, and processes that are started later inherit that."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory) -> Iterator[Callable[[str], Path]]:
    """module_folder(name) makes a folder that goes with its module; those of tmp_path_factory stay to the end."""
    folders: list[Path] = []

    def make(name: str) -> Path:
        folders.append(tmp_path_factory.mktemp(name))
        return folders[-1]

    yield make
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def samples() -> Path:
    return Path(__file__).parents[1] / "samples" / "images"


@pytest.fixture(scope="session")
def detector():
    """A tiny two-stage detector in evaluation mode. Tests that change it make their own."""
    torch.manual_seed(0)
    return DeformableDetrRefineForObjectDetection(golden_config(**NO_DROPOUT)).eval()


@pytest.fixture(scope="session")
def saved(detector, tmp_path_factory) -> Path:
    """The detector and its processor in a folder, as save_pretrained writes them."""
    folder = tmp_path_factory.mktemp("saved") / "detector"
    detector.save_pretrained(folder)
    DeformableDetrRefineImageProcessor(size=TINY_SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved_small(tmp_path_factory) -> Path:
    """A detector that takes milliseconds an image, in a folder that tests only read."""
    return save_small_detector(tmp_path_factory.mktemp("small") / "detector")


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Four images of one size, (4, 3, 128, 160)."""
    return torch.randn(4, 3, 128, 160, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def targets() -> list[dict[str, torch.Tensor]]:
    """Labels of the four images: two boxes, none, one, three."""
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "class_labels": torch.randint(0, 5, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.2,
        }
        for count in (2, 0, 1, 3)
    ]
