"""Labels as the loss needs them: on the predictions' device, in fp32, their soundness known without a wait for it."""

from typing import NamedTuple

import torch
from torch import Tensor

Labels = list[dict[str, Tensor]]


class Targets(NamedTuple):
    """The objects of B images, (N,) class labels and (N, 4) cxcywh boxes in 0..1 of the image itself for each."""

    class_labels: list[Tensor]
    boxes: list[Tensor]
    sound: Tensor  # (B, 2): whether the classes exist, and whether the boxes are normalised


def targets_of(labels: Labels, images: int, classes: int, device: torch.device) -> Targets:
    """Moves labels to the device; `check_targets` says later, when `sound` has come back from it, what is wrong.

    Raises:
        ValueError: another number of images, or boxes that are not (N, 4).
    """
    if len(labels) != images:
        raise ValueError(f"{images} images came with {len(labels)} labels; give a dict per image.")
    class_labels = [target["class_labels"].to(device) for target in labels]
    boxes = [target["boxes"].to(device, torch.float32) for target in labels]
    for index, (names, corners) in enumerate(zip(class_labels, boxes, strict=True)):
        if corners.shape != (len(names), 4):
            raise ValueError(
                f"labels[{index}]: boxes {tuple(corners.shape)} do not go with {len(names)} class labels; "
                "give (N, 4) and (N,)."
            )
    # Half of a box may stand outside the image, no more: pixels or xyxy given by mistake end here.
    sound = [
        torch.stack((((c >= 0) & (c < classes)).all(), ((b >= 0) & (b <= 1.001)).all()))
        for c, b in zip(class_labels, boxes, strict=True)
    ]
    return Targets(class_labels, boxes, torch.stack(sound))


def check_targets(targets: Targets, sound: list[list[bool]], classes: int) -> None:
    """Raises ValueError for the first image with unknown classes, or boxes that are not normalised."""
    for index, (known, normalised) in enumerate(sound):
        class_labels, boxes = targets.class_labels[index], targets.boxes[index]
        if not known:
            raise ValueError(
                f"labels[{index}]: class labels run from {class_labels.min()} to {class_labels.max()}, "
                f"but the model has classes 0 to {classes - 1}."
            )
        if not normalised:
            raise ValueError(
                f"labels[{index}]: boxes must be cxcywh normalised by the image itself, in 0..1; "
                f"found values from {boxes.min():.4g} to {boxes.max():.4g}."
            )
