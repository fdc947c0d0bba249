"""Weights that FSDP2 keeps in shards, a part of each in every process.

What says "all come here" is a collective: every process calls it, or those that do wait for the others.
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; all of it where it is not in shards."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; all come here."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_whole(target: Tensor, source: Tensor) -> None:
    """Copies a whole tensor, which every process has, into one that may be in shards."""
    if isinstance(target, DTensor):
        mesh, placements = target.device_mesh, target.placements
        source = distribute_tensor(source.to(target.device), mesh, placements, src_data_rank=None)
    target.copy_(source)


@torch.no_grad()
def whole_model(model: DeformableDetrRefineForObjectDetection) -> DeformableDetrRefineForObjectDetection:
    """The detector with all its weights in each process, of one in shards; all come here."""
    with torch.device("meta"):
        detector = DeformableDetrRefineForObjectDetection(model.config)
    detector.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()}, assign=True)
    return detector.eval()


__all__ = ["copy_whole", "own_part", "whole", "whole_model"]
