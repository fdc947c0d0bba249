"""What each of two processes computes of a batch; in a file that they can import."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from deformable_detr_refine import DeformableDetrRefineForObjectDetection


def compute_half(folder: Path) -> None:
    """Loss and gradients of every case in cases.pt, of this rank's two images; rank 0 writes results.pt."""
    dist.init_process_group("gloo")
    half = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    results = []
    for case in torch.load(folder / "cases.pt", weights_only=False):
        model = DeformableDetrRefineForObjectDetection(case["config"]).train()
        model.load_state_dict(case["weights"])
        parallel = DistributedDataParallel(model)  # find_unused_parameters=False: every parameter must get its gradient
        loss = parallel(case["pixels"][half], labels=case["targets"][half]).loss
        loss.backward()
        dist.all_reduce(loss.detach_())
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append({"loss": loss / 2, "gradients": gradients})
    if dist.get_rank() == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()
