"""What a data loader yields: images of a detection data set, ready for the model, with their labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor

from .row_image import row_image


class Examples(Dataset):
    """Rows of a canonical data set as the model's inputs; the image is decoded once, when it is asked for.

    An example is asked for by its index, or by (epoch, index): its augmentation is a function of seed, epoch and
    index alone, so it does not depend on who loads it (workers, ranks) or on where training was resumed.

    Args:
        rows: a `datasets.Dataset` in the canonical form (see `detection_data.features`).
        processor: makes the model's inputs; it resizes only where no augmentation does.
        augmentation: a transform of (image, target), see `augmentation.py`.
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
        image, annotations = open_row(row)
        if self.augmentation is not None:
            image, annotations = self._augmented(image, annotations, epoch, index)
        features = self.processor(
            images=image,
            annotations={"image_id": row["image_id"], "annotations": annotations},
            do_resize=self.augmentation is None,
            return_tensors="pt",
        )
        return {"pixel_values": features["pixel_values"][0], "labels": features["labels"][0]}

    def _augmented(self, image: Any, annotations: list[dict], epoch: int, index: int) -> tuple[Tensor, list[dict]]:
        xywh = torch.tensor([item["bbox"] for item in annotations], dtype=torch.float32).reshape(-1, 4)
        xyxy = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), -1)
        target = {
            "boxes": tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=(image.height, image.width)),
            "labels": torch.tensor([item["category_id"] for item in annotations], dtype=torch.int64),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]))
            changed, target = self.augmentation(tv_tensors.Image(F.pil_to_tensor(image)), target)
        boxes = target["boxes"].as_subclass(Tensor)
        sizes = boxes[:, 2:] - boxes[:, :2]
        pairs = zip(torch.cat((boxes[:, :2], sizes), -1).tolist(), target["labels"].tolist(), strict=True)
        return changed.as_subclass(Tensor), [{"bbox": bbox, "category_id": label} for bbox, label in pairs]


def open_row(row: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """A row's upright PIL image, and its objects without crowds as COCO annotations (bbox x, y, w, h in pixels)."""
    objects = row["objects"]
    annotations = [
        {"bbox": bbox, "category_id": category}
        for bbox, category, crowd in zip(objects["bbox"], objects["category"], objects["iscrowd"], strict=True)
        if not crowd
    ]
    return row_image(row), annotations


class Collator:
    """Makes one batch of several examples: images padded to the largest, masks, a list of labels."""

    def __init__(self, processor: DeformableDetrRefineImageProcessor) -> None:
        self.processor = processor

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`pixel_values` (B, 3, height, width), `pixel_mask` (B, height, width) with 1 on the image, `labels`."""
        images, masks = self.processor.pad([example["pixel_values"] for example in examples], return_mask=True)
        return {
            "pixel_values": torch.stack(list(images)),
            "pixel_mask": torch.stack(list(masks)),
            "labels": [example["labels"] for example in examples],
        }
