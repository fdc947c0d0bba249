"""Random resizes and crops as MMDetection has them, as torchvision transforms v2 of an image and its boxes."""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from deformable_detr_refine.modeling.size_rules import mmdet_size

# How often a crop that keeps no object is drawn anew.
MOST_CROPS = 50


def resized_shape(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """(height, width) by mmcv's rule, at least one pixel each."""
    height, width = mmdet_size(height, width, shortest_edge, longest_edge)
    return max(height, 1), max(width, 1)


class RandomChoiceResize(v2.Transform):
    """Resizes to one of several scales, bilinear without antialias as cv2 does.

    Args:
        scales: pairs of limits for the two edges, whichever is the longer, when `keep_ratio`; else (width, height).
        keep_ratio: resize by mmcv's rule.
    """

    def __init__(self, scales: Sequence[Sequence[int]], keep_ratio: bool) -> None:
        super().__init__()
        self.scales, self.keep_ratio = tuple(tuple(scale) for scale in scales), keep_ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"size": self.size(*canvas(flat_inputs), self.scales[integer(0, len(self.scales) - 1)])}

    def size(self, height: int, width: int, scale: Sequence[int]) -> list[int]:
        if not self.keep_ratio:
            return [scale[1], scale[0]]
        return list(resized_shape(height, width, min(scale), max(scale)))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, params["size"], antialias=False)


class RandomResize(RandomChoiceResize):
    """Resizes to a scale times a random ratio, or to a scale between two.

    Args:
        scales: one scale, of which a random ratio is taken, or two, between which each edge is drawn.
        ratio_range: least and largest ratio, with one scale.
        keep_ratio: as of `RandomChoiceResize`.
    """

    def __init__(
        self, scales: Sequence[Sequence[int]], ratio_range: tuple[float, float] | None, keep_ratio: bool
    ) -> None:
        super().__init__(scales, keep_ratio)
        self.ratio_range = ratio_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        if self.ratio_range is not None:
            least, most = self.ratio_range
            ratio = least + (most - least) * float(torch.rand(()))
            scale = [max(1, int(side * ratio)) for side in self.scales[0]]
        else:
            scale = [integer(*sorted(edge(scale) for scale in self.scales)) for edge in (max, min)]
        return {"size": self.size(*canvas(flat_inputs), scale)}


class RandomCrop(v2.Transform):
    """A crop anywhere; of a side that is shorter, all.

    Args:
        crop_size: of `absolute_range`, least and largest side in pixels, drawn for height and width; of `absolute`,
            (width, height) in pixels; of `relative`, (width, height) in parts of the image; of `relative_range`, the
            least parts of (height, width).
        crop_type: one of these.
        allow_negative_crop: a crop may keep no object. Else another is drawn, up to 50 times, and if none keeps one
            the image stays whole (MMDetection takes another image instead).

    Source: RandomCrop in mmdet/datasets/transforms/transforms.py of MMDetection 3.1.
    """

    def __init__(self, crop_size: Sequence[float], crop_type: str, allow_negative_crop: bool) -> None:
        super().__init__()
        self.crop_size, self.crop_type, self.allow_negative_crop = tuple(crop_size), crop_type, allow_negative_crop

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = canvas(flat_inputs)
        boxes = next((item for item in flat_inputs if isinstance(item, tv_tensors.BoundingBoxes)), None)
        for _ in range(MOST_CROPS):
            place = self._place(height, width)
            if self.allow_negative_crop or boxes is None or not len(boxes) or _keeps_one(boxes, place):
                return place
        return {"top": 0, "left": 0, "height": height, "width": width}

    def _place(self, height: int, width: int) -> dict[str, int]:
        crop_height, crop_width = self._size(height, width)
        top, left = integer(0, height - crop_height), integer(0, width - crop_width)
        return {"top": top, "left": left, "height": crop_height, "width": crop_width}

    def _size(self, height: int, width: int) -> tuple[int, int]:
        first, second = self.crop_size
        if self.crop_type.startswith("absolute"):
            first, second = int(first), int(second)
            if self.crop_type == "absolute":
                return min(second, height), min(first, width)
            return integer(min(height, first), min(height, second)), integer(min(width, first), min(width, second))
        parts = [second, first]
        if self.crop_type == "relative_range":
            parts = [least + float(torch.rand(())) * (1 - least) for least in (first, second)]
        return max(1, int(height * parts[0] + 0.5)), max(1, int(width * parts[1] + 0.5))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)


def _keeps_one(boxes: torch.Tensor, place: dict[str, int]) -> bool:
    low = torch.tensor([place["left"], place["top"]])
    high = low + torch.tensor([place["width"], place["height"]])
    return bool((torch.minimum(boxes[:, 2:], high) > torch.maximum(boxes[:, :2], low)).all(-1).any())


def canvas(flat_inputs: list[Any]) -> tuple[int, int]:
    """(height, width) of the image among a transform's inputs."""
    height, width = next(F.get_size(item) for item in flat_inputs if isinstance(item, tv_tensors.Image))
    return height, width


def integer(low: int, high: int) -> int:
    """Uniform over low..high, both included, from torch's generator."""
    return int(torch.randint(low, high + 1, ()))
