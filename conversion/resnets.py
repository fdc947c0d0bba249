"""The ResNets that all these code bases have alike."""

from deformable_detr_refine.errors import CheckpointError

# name -> (kind of block, blocks of each stage)
RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}


def resnet_of(backbone: str, code_base: str) -> str:
    """The ResNet that a backbone of ours is in another code base: of 'resnet50.tv_in1k' it is 'resnet50'.

    Raises:
        CheckpointError: it is none.
    """
    name = backbone.partition(".")[0]
    if name not in RESNETS:
        raise CheckpointError(
            f"A model with the backbone {backbone!r} has no counterpart in {code_base}; {', '.join(RESNETS)} have."
        )
    return name


def resnet_with(kind: str, depths: tuple[int, ...]) -> str | None:
    """The name of the ResNet of these blocks, or None."""
    return next((name for name, blocks in RESNETS.items() if blocks == (kind, depths)), None)


__all__ = ["RESNETS", "resnet_of", "resnet_with"]
