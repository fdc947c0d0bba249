"""Random changes of a training image and its boxes, with torchvision's transforms v2.

A transform takes (image, target): a `tv_tensors.Image` and a dict with `boxes` (N, 4), `tv_tensors.BoundingBoxes` as
xyxy in pixels of that image, and `labels` (N,). What comes out has the size that the model sees: the image processor
only normalises it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .mmdet_pipeline import mmdet_transforms, resizes
from .random_transforms import RandomChoiceResize, canvas, integer, resized_shape

PRESETS = ("mmdet", "light", "none")


def training_transform(
    augmentation: str | Sequence[Mapping[str, Any]],
    shortest_edge: int,
    longest_edge: int,
    vertical_flip: bool = False,
) -> v2.Transform | None:
    """The transform of a preset's name, or of a list of MMDetection's transforms.

    - `mmdet`: the reference's recipe, `mmdet_recipe`; at 800 x 1333 its very numbers (flip; then either one of eleven
      sizes from 480 to 800, or a resize to 400 to 600, a crop of 384 to 600 pixels a side, and one of the eleven). For
      COCO and other sets of thousands of images.
    - `light`: flip, colour, and a zoom in or out, up to 1.7 times larger and 1.4 times smaller. For hundreds of images:
      no object is made tiny, few are cut, and every image has the size that it has in use, so that images of one size
      need no padding.
    - `none`: no change but the image processor's.
    - a list: see `mmdet_pipeline.py`. Its sizes are taken as they stand; where nothing in it resizes, the image
      processor's resize comes last.

    Args:
        augmentation: a preset's name, or the list, also as JSON.
        shortest_edge, longest_edge: the image processor's size; all sizes of a preset are in proportion to it.
        vertical_flip: also mirror top and bottom, for pictures without an up (cells, aerial views).

    Returns:
        A transform, or None for `none`.

    Raises:
        ValueError: there is no such preset, or the list names what there is not.
    """
    if isinstance(augmentation, str) and augmentation.lstrip().startswith("["):
        try:
            augmentation = json.loads(augmentation)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"augmentation is neither a preset nor a list in JSON: {error}.") from error
    if augmentation == "none":
        return None
    if augmentation == "mmdet":
        steps = mmdet_transforms(mmdet_recipe(shortest_edge, longest_edge, vertical_flip))
    elif augmentation == "light":
        flips = [v2.RandomHorizontalFlip(0.5)] + [v2.RandomVerticalFlip(0.5)] * vertical_flip
        steps = [*flips, *_light(shortest_edge, longest_edge)]
    elif isinstance(augmentation, str):
        raise ValueError(
            f"There is no augmentation {augmentation!r}: choose one of {', '.join(PRESETS)}, or list MMDetection's "
            "transforms."
        )
    else:
        steps = [v2.RandomVerticalFlip(0.5)] * vertical_flip + mmdet_transforms(augmentation)
        if not resizes(steps):
            steps.append(RandomChoiceResize([(longest_edge, shortest_edge)], keep_ratio=True))
    return v2.Compose([*steps, KeepBoxesWithArea()])


def mmdet_recipe(shortest_edge: int = 800, longest_edge: int = 1333, vertical_flip: bool = False) -> list[dict]:
    """MMDetection's training pipeline of this model, under its own names, in proportion to the image size.

    Source: train_pipeline of configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py of MMDetection 3.1.

    Example:
        >>> [step["type"] for step in mmdet_recipe()]
        ['RandomFlip', 'RandomChoice']
    """

    def scaled(*sizes: int) -> list[int]:
        return [round(size * shortest_edge / 800) for size in sizes]

    (longest_before,) = scaled(4200)
    resize = {
        "type": "RandomChoiceResize",
        "scales": [[size, longest_edge] for size in scaled(*range(480, 801, 32))],
        "keep_ratio": True,
    }
    large = {**resize, "scales": [[size, longest_before] for size in scaled(400, 500, 600)]}
    crop = {"type": "RandomCrop", "crop_type": "absolute_range", "crop_size": scaled(384, 600)}
    crop["allow_negative_crop"] = True
    flips = [{"type": "RandomFlip", "prob": 0.5}]
    if vertical_flip:
        flips.append({"type": "RandomFlip", "prob": 0.5, "direction": "vertical"})
    return [*flips, {"type": "RandomChoice", "transforms": [[resize], [large, crop, resize]]}]


def _light(shortest_edge: int, longest_edge: int) -> list[v2.Transform]:
    colour = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)
    return [v2.RandomApply([colour], 0.5), RandomZoom(0.6, 1.4, shortest_edge, longest_edge)]


class RandomZoom(v2.Transform):
    """A window of `least` to `most` times the image's sides, resized to what the whole image would be resized to.

    A window smaller than the image lies within it, a larger one around it; what is outside is grey, the mean of
    ImageNet's pixels, which is 0 after normalisation as padding is.
    """

    grey: list[float] = [124, 116, 104]

    def __init__(self, least: float, most: float, shortest_edge: int, longest_edge: int) -> None:
        super().__init__()
        self.least, self.most = least, most
        self.shortest_edge, self.longest_edge = shortest_edge, longest_edge

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = canvas(flat_inputs)
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
        # torchvision's decorator hides the signature.
        kept_boxes = tv_tensors.wrap(boxes[kept], like=boxes)  # pyright: ignore[reportCallIssue]
        return image, {**target, "boxes": kept_boxes, "labels": target["labels"][kept]}


def _between(side: int, window: int) -> int:
    """Where a window begins: within the side when it is smaller, before it when it is larger."""
    return integer(0, side - window) if window <= side else -integer(0, window - side)
