"""Random changes of a training image and its boxes, with torchvision's transforms v2.

A transform takes (image, target): a `tv_tensors.Image` and a dict with `boxes` (N, 4), `tv_tensors.BoundingBoxes` as
xyxy in pixels of that image, and `labels` (N,). What comes out has the size that the model sees: the image processor
only normalises it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

PRESETS = ("mmdet", "light", "none")


def training_transform(
    preset: str, shortest_edge: int, longest_edge: int, vertical_flip: bool = False
) -> v2.Transform | None:
    """The transform of a preset's name.

    - `mmdet`: the reference's recipe; at 800 x 1333 its very numbers (flip; then either one of eleven sizes from 480
      to 800, or a resize to 400 to 600, a crop of 384 to 600 pixels a side, and one of the eleven). For COCO and other
      sets of thousands of images.
    - `light`: flip, colour, and a zoom in or out, up to 1.7 times larger and 1.4 times smaller. For hundreds of images:
      no object is made tiny, few are cut, and every image has the size that it has in use, so that images of one size
      need no padding.
    - `none`: no change but the image processor's.

    Args:
        shortest_edge, longest_edge: the image processor's size; all sizes of a preset are in proportion to it.
        vertical_flip: also mirror top and bottom, for pictures without an up (cells, aerial views).

    Returns:
        A transform, or None for `none`.

    Raises:
        ValueError: there is no such preset.
    """
    if preset == "none":
        return None
    if preset not in PRESETS:
        raise ValueError(f"There is no augmentation {preset!r}: choose one of {', '.join(PRESETS)}.")
    flips = [v2.RandomHorizontalFlip(0.5)] + [v2.RandomVerticalFlip(0.5)] * vertical_flip
    steps = (_mmdet if preset == "mmdet" else _light)(shortest_edge, longest_edge)
    return v2.Compose([*flips, *steps, KeepBoxesWithArea()])


def _mmdet(shortest_edge: int, longest_edge: int) -> list[v2.Transform]:
    """Source: train_pipeline of configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py."""
    scale = shortest_edge / 800
    sizes = [round(size * scale) for size in range(480, 801, 32)]
    before_crop = [round(size * scale) for size in (400, 500, 600)]
    resize = RandomShortestEdge(sizes, longest_edge)
    crop = RandomAbsoluteCrop(round(384 * scale), round(600 * scale))
    large = RandomShortestEdge(before_crop, round(4200 * scale))
    return [v2.RandomChoice([resize, v2.Compose([large, crop, resize])])]


def _light(shortest_edge: int, longest_edge: int) -> list[v2.Transform]:
    colour = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)
    return [v2.RandomApply([colour], 0.5), RandomZoom(0.6, 1.4, shortest_edge, longest_edge)]


def resized_shape(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """(height, width) after mmcv's rule: the ratio kept, neither edge above its limit, int(side * scale + 0.5).

    Example:
        >>> resized_shape(480, 640, 800, 1333)
        (800, 1067)
    """
    scale = min(longest_edge / max(height, width), shortest_edge / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


class RandomShortestEdge(v2.Transform):
    """Resizes by mmcv's rule to one of several shortest edges, bilinear without antialias as cv2 does."""

    def __init__(self, shortest_edges: Sequence[int], longest_edge: int) -> None:
        super().__init__()
        self.shortest_edges, self.longest_edge = tuple(shortest_edges), longest_edge

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        chosen = self.shortest_edges[_integer(0, len(self.shortest_edges) - 1)]
        return {"size": list(resized_shape(*_canvas(flat_inputs), chosen, self.longest_edge))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, params["size"], antialias=False)


class RandomAbsoluteCrop(v2.Transform):
    """A crop anywhere; each side has between `least` and `most` pixels, or all where the image has fewer.

    Source: RandomCrop with crop_type='absolute_range' and allow_negative_crop in mmdet/datasets/transforms.
    """

    def __init__(self, least: int, most: int) -> None:
        super().__init__()
        self.least, self.most = least, most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = _canvas(flat_inputs)
        height, width = (_integer(min(side, self.least), min(side, self.most)) for side in sides)
        top, left = _integer(0, sides[0] - height), _integer(0, sides[1] - width)
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)


class RandomZoom(v2.Transform):
    """A window of `least` to `most` times the image's sides, resized to what the whole image would be resized to.

    A window smaller than the image lies within it, a larger one around it; what is outside is grey, the mean of
    ImageNet's pixels, which is 0 after normalisation as padding is.
    """

    grey = (124, 116, 104)

    def __init__(self, least: float, most: float, shortest_edge: int, longest_edge: int) -> None:
        super().__init__()
        self.least, self.most = least, most
        self.shortest_edge, self.longest_edge = shortest_edge, longest_edge

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _canvas(flat_inputs)
        share = self.least + (self.most - self.least) * float(torch.rand(()))
        window = max(1, round(share * height)), max(1, round(share * width))
        top, left = (_between(side, inner) for side, inner in zip((height, width), window, strict=True))
        margins = [max(0, -left), max(0, -top)]
        margins += [max(0, left + window[1] - width), max(0, top + window[0] - height)]
        place = {"top": max(0, top), "left": max(0, left), "height": window[0], "width": window[1]}
        size = list(resized_shape(height, width, self.shortest_edge, self.longest_edge))
        return {"margins": margins, "place": place, "size": size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if any(params["margins"]):
            inpt = F.pad(inpt, params["margins"], fill=self.grey if isinstance(inpt, tv_tensors.Image) else 0)
        return F.resized_crop(inpt, **params["place"], size=params["size"], antialias=False)


class KeepBoxesWithArea(v2.Transform):
    """Clips boxes to the image and drops, with their labels, those that keep no area."""

    def forward(self, image: tv_tensors.Image, target: dict[str, Any]) -> tuple[tv_tensors.Image, dict[str, Any]]:
        boxes = F.clamp_bounding_boxes(target["boxes"])
        kept = (boxes[:, 2:] > boxes[:, :2]).all(-1)
        return image, {**target, "boxes": tv_tensors.wrap(boxes[kept], like=boxes), "labels": target["labels"][kept]}


def _canvas(flat_inputs: list[Any]) -> tuple[int, int]:
    return next(tuple(F.get_size(item)) for item in flat_inputs if isinstance(item, tv_tensors.Image))


def _between(side: int, window: int) -> int:
    """Where a window begins: within the side when it is smaller, before it when it is larger."""
    return _integer(0, side - window) if window <= side else -_integer(0, window - side)


def _integer(low: int, high: int) -> int:
    """Uniform over low..high, both included, from torch's generator."""
    return int(torch.randint(low, high + 1, ()))
