"""Two processes against one, over a real gloo process group."""

import pytest
import torch
from support import forked
from support.goldens_mmdet import NO_DROPOUT, golden_config
from support.half_batch import compute_half
from support.recipes import RECIPES

from deformable_detr_refine import DeformableDetrRefineForObjectDetection

pytestmark = pytest.mark.slow

# Boxes kept of each of the four images: of all, of rank 0's only, fewer than there are ranks.
CASES = {"uneven": (2, 0, 1, 3), "empty-rank": (2, 1, 0, 0), "one-box": (0, 1, 0, 0)}
CASES |= {name: (2, 0, 1, 3) for name, settings in RECIPES.items() if settings}


@pytest.fixture(scope="module")
def cases(pixels, targets):
    made = {}
    for name, kept in CASES.items():
        torch.manual_seed(0)
        config = golden_config(**NO_DROPOUT, **RECIPES.get(name, {}))
        weights = DeformableDetrRefineForObjectDetection(config).state_dict()
        labels = [{key: value[:count] for key, value in targets[-1].items()} for count in kept]
        made[name] = {"config": config, "weights": weights, "pixels": pixels, "targets": labels}
    return made


@pytest.fixture(scope="module")
def two_processes(cases, tmp_path_factory):
    """Loss and gradients of every case, computed by two processes with two images each."""
    folder = tmp_path_factory.mktemp("distributed")
    torch.save(list(cases.values()), folder / "cases.pt")
    forked.finish(forked.start_ranks(2, compute_half, folder, log=folder / "log"), folder / "log")
    return dict(zip(cases, torch.load(folder / "results.pt"), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_batch(name, cases, two_processes):
    case, result = cases[name], two_processes[name]
    model = DeformableDetrRefineForObjectDetection(case["config"]).train()
    model.load_state_dict(case["weights"])
    loss = model(case["pixels"], labels=case["targets"]).loss
    loss.backward()
    assert result["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert result["gradients"].keys() == expected.keys()
    for parameter, gradient in expected.items():
        difference = (result["gradients"][parameter] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-6, parameter
