"""Two processes against one, over a real gloo process group."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from support.goldens_mmdet import NO_DROPOUT, golden_config

from deformable_detr_refine import DeformableDetrRefineForObjectDetection

WORKER = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from deformable_detr_refine import DeformableDetrRefineForObjectDetection

folder = sys.argv[1]
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
half = slice(2 * rank, 2 * rank + 2)
results = []
for case in torch.load(f"{folder}/cases.pt", weights_only=False):
    model = DeformableDetrRefineForObjectDetection(case["config"]).train()
    model.load_state_dict(case["weights"])
    model = DistributedDataParallel(model)  # find_unused_parameters=False: every parameter must get its gradient
    loss = model(case["pixels"][half], labels=case["targets"][half]).loss
    loss.backward()
    dist.all_reduce(loss.detach_())
    gradients = {name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}
    results.append({"loss": loss / 2, "gradients": gradients})
if rank == 0:
    torch.save(results, f"{folder}/results.pt")
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Boxes kept of each of the four images: of all, of rank 0's only, fewer than there are ranks.
CASES = {"uneven": (2, 0, 1, 3), "empty-rank": (2, 1, 0, 0), "one-box": (0, 1, 0, 0)}


@pytest.fixture(scope="module")
def cases(pixels, targets):
    torch.manual_seed(0)
    config = golden_config(**NO_DROPOUT)
    weights = DeformableDetrRefineForObjectDetection(config).state_dict()
    labels = {
        name: [{key: value[:count] for key, value in targets[-1].items()} for count in kept]
        for name, kept in CASES.items()
    }
    return {name: {"config": config, "weights": weights, "pixels": pixels, "targets": labels[name]} for name in CASES}


@pytest.fixture(scope="module")
def two_processes(cases, tmp_path_factory):
    """Loss and gradients of every case, computed by two processes with two images each."""
    folder = tmp_path_factory.mktemp("distributed")
    torch.save(list(cases.values()), folder / "cases.pt")
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen([sys.executable, worker, folder], env={**environment, "RANK": str(rank)}) for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
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
