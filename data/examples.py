"""What a data loader yields: images of a detection data set, ready for the model, with their labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor
from deformable_detr_refine.modeling.annotations import box_labels
from deformable_detr_refine.modeling.boxes import xywh_to_xyxy
from deformable_detr_refine.modeling.pixel_values import padded

from .row_image import row_image


class Examples(Dataset):
    """Rows of a canonical data set as the model's inputs; the image is decoded once, when it is asked for.

    An example is asked for by its index, or by (epoch, index): its augmentation is a function of seed, epoch and
    index alone, so it does not depend on who loads it (workers, ranks) or on where training was resumed.

    Args:
        rows: a `datasets.Dataset` in the canonical form (see `detection_data.features`).
        processor: makes the model's inputs; it resizes only where no augmentation does.
        augmentation: a transform of (image, target), see `training_transform`.
        seed: of the augmentation.
    """

    def __init__(
        self,
        rows: Any,
        processor: DeformableDetrRefineImageProcessor,
        augmentation: Callable | None = None,
        seed: int = 0,
    ) -> None:
        self.rows, self.processor, self.augmentation, self.seed = rows, processor, augmentation, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """`pixel_values` (3, height, width) and `labels`, as the image processor makes them.

        `labels["boxes"]` are cxcywh normalised by the (augmented) image itself; crowds are left out.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.rows[index]
        image, (boxes, classes) = row_image(row), true_boxes(row)
        if self.augmentation is not None:
            image, boxes, classes = self._augmented(self.augmentation, image, boxes, classes, epoch, index)
        features = self.processor.preprocess(images=image, do_resize=self.augmentation is None, return_tensors="pt")
        pixels = features["pixel_values"][0]
        # It takes PIL images too.
        labels = box_labels(boxes, classes, *F.get_size(image))  # pyright: ignore[reportArgumentType]
        labels |= {"image_id": torch.tensor([row["image_id"]]), "size": torch.tensor(pixels.shape[-2:])}
        return {"pixel_values": pixels, "labels": labels}

    def _augmented(
        self, augmentation: Callable, image: Any, boxes: Tensor, classes: Tensor, epoch: int, index: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        target = {
            # Tensor's own signature hides that of the class.
            "boxes": tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]
                boxes, format="XYXY", canvas_size=(image.height, image.width)
            ),
            "labels": classes,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]))
            changed, target = augmentation(tv_tensors.Image(F.pil_to_tensor(image)), target)
        return changed.as_subclass(Tensor), target["boxes"].as_subclass(Tensor), target["labels"]


def true_boxes(row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A row's objects without crowds: boxes (N, 4) xyxy in pixels of the original, and labels (N,)."""
    objects = row["objects"]
    alone = [index for index, crowd in enumerate(objects["iscrowd"]) if not crowd]
    xywh = torch.tensor([objects["bbox"][index] for index in alone], dtype=torch.float32).reshape(-1, 4)
    return xywh_to_xyxy(xywh), torch.tensor([objects["category"][index] for index in alone], dtype=torch.int64)


def collate(examples: Sequence[dict[str, Any]], always_masked: bool = False) -> dict[str, Any]:
    """Makes one batch of several examples, padded to the largest.

    Returns:
        `pixel_values` (B, 3, height, width); `pixel_mask` (B, height, width), True on the image, where anything is
        padded or it is `always_masked` (a compiled model would be another without); `labels`, a list.
    """
    pixels, mask = padded([example["pixel_values"] for example in examples])
    # Without `size`, of which the model would make the mask again.
    labels = [{name: value for name, value in example["labels"].items() if name != "size"} for example in examples]
    return {"pixel_values": pixels, "labels": labels} | (
        {} if mask.all() and not always_masked else {"pixel_mask": mask}
    )


__all__ = ["Examples", "collate"]
