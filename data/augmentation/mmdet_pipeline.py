"""MMDetection's training pipelines by its own names and arguments, as torchvision transforms v2."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchvision.transforms import v2

from deformable_detr_refine.messages import described

from .random_transforms import RandomChoiceResize, RandomCrop, RandomResize

CROP_TYPES = ("absolute_range", "absolute", "relative_range", "relative")
# What the data set and the image processor do anyway, so that a pipeline can be pasted whole.
DONE_ELSEWHERE = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")
Step = Mapping[str, Any]


def mmdet_transforms(steps: Sequence[Step], where: str = "augmentation") -> list[v2.Transform]:
    """The transforms that a list of mappings names, `{"type": "RandomFlip", "prob": 0.5}` and so on.

    Names, arguments and defaults are those of MMDetection 3.x and mmcv 2.x; sizes are in pixels, (width, height) where
    MMDetection has them so.

    Args:
        steps: a `train_pipeline`.
        where: how errors call it.

    Raises:
        ValueError: a type or an argument is not known, or a value cannot be used; the message says which.

    Example:
        >>> mmdet_transforms([{"type": "LoadImageFromFile"}, {"type": "RandomFlip", "prob": 0.5}])
        [RandomHorizontalFlip(p=0.5)]
    """
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise ValueError(f"{where} is {described(steps)}, expected a list of transforms.")
    return [transform for number, step in enumerate(steps) for transform in _made(step, f"{where}[{number}]")]


def resizes(steps: Sequence[v2.Transform]) -> bool:
    """Whether every image gets another size by these transforms, whatever is drawn, and apart from crops."""
    for step in steps:
        inner = getattr(step, "transforms", ())
        if isinstance(step, v2.RandomChoice):
            if all(resizes([branch]) for branch in inner):
                return True
        elif isinstance(step, RandomChoiceResize) or (not isinstance(step, v2.RandomApply) and resizes(inner)):
            return True
    return False


def _made(step: Step, where: str) -> list[v2.Transform]:
    if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
        raise ValueError(f"{where} is {described(step)}, expected a transform, as {{type: RandomFlip, prob: 0.5}}.")
    name = step["type"].rpartition(".")[2]  # mmdet.RandomCrop
    if name in DONE_ELSEWHERE:
        return []
    if name not in TRANSFORMS:
        raise ValueError(
            f"{where}: there is no transform {described(step['type'])}; known are "
            f"{', '.join((*TRANSFORMS, *DONE_ELSEWHERE))}."
        )
    where, build = f"{where} ({name})", TRANSFORMS[name]
    given = {key: value for key, value in step.items() if key != "type"}
    parameters = {key: value for key, value in inspect.signature(build).parameters.items() if key != "where"}
    known = list(parameters)
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{where}: there is no argument {described(unknown[0])}; there are {', '.join(known)}.")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in given:
            raise ValueError(f"{where}: the argument {key} is missing.")
    return [build(where=where, **given)]


def _flip(where: str, prob: Any = None, direction: Any = "horizontal") -> v2.Transform:
    directions = [direction] if isinstance(direction, str) else direction
    flips = {
        "horizontal": v2.RandomHorizontalFlip,
        "vertical": v2.RandomVerticalFlip,
        "diagonal": lambda p: v2.RandomApply([v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0)], p),
    }
    if not isinstance(directions, Sequence) or not directions or not all(name in flips for name in directions):
        raise ValueError(f"{where}: direction is {described(direction)}, expected some of {', '.join(flips)}.")
    if isinstance(prob, Sequence) and len(prob) != len(directions):
        raise ValueError(f"{where}: {len(prob)} of prob for {len(directions)} directions.")
    probs = (
        list(prob) if isinstance(prob, Sequence) else [_part(where, "prob", prob) / len(directions)] * len(directions)
    )
    probs = [_part(where, "prob", value) for value in probs]
    if len(directions) == 1:
        return flips[directions[0]](p=probs[0])
    if sum(probs) > 1 + 1e-9:
        raise ValueError(f"{where}: prob adds up to {sum(probs):g}, more than 1.")
    return v2.RandomChoice(
        [*(flips[name](p=1.0) for name in directions), v2.Identity()], p=[*probs, max(0.0, 1 - sum(probs))]
    )


def _resize(where: str, scale: Any, keep_ratio: bool = False) -> v2.Transform:
    return RandomChoiceResize([_pair(where, "scale", scale, int)], _flag(where, "keep_ratio", keep_ratio))


def _random_choice_resize(where: str, scales: Any, keep_ratio: bool = False) -> v2.Transform:
    if not isinstance(scales, Sequence) or isinstance(scales, str) or not scales:
        raise ValueError(f"{where}: scales is {described(scales)}, expected a list of pairs.")
    pairs = [_pair(where, "scales", scale, int) for scale in scales]
    return RandomChoiceResize(pairs, _flag(where, "keep_ratio", keep_ratio))


def _random_resize(where: str, scale: Any, ratio_range: Any = None, keep_ratio: bool = False) -> v2.Transform:
    keep_ratio = _flag(where, "keep_ratio", keep_ratio)
    if ratio_range is not None:
        ratios = _pair(where, "ratio_range", ratio_range, float)
        return RandomResize([_pair(where, "scale", scale, int)], ratios, keep_ratio)
    if not isinstance(scale, Sequence) or len(scale) != 2 or not all(isinstance(item, Sequence) for item in scale):
        raise ValueError(f"{where}: scale is {described(scale)}, expected two pairs, or one and ratio_range.")
    return RandomResize([_pair(where, "scale", item, int) for item in scale], None, keep_ratio)


def _crop(
    where: str,
    crop_size: Any,
    crop_type: str = "absolute",
    allow_negative_crop: bool = False,
    recompute_bbox: bool = False,
    bbox_clip_border: bool = True,
) -> v2.Transform:
    if crop_type not in CROP_TYPES:
        raise ValueError(f"{where}: crop_type is {described(crop_type)}, expected one of {', '.join(CROP_TYPES)}.")
    if recompute_bbox is not False or bbox_clip_border is not True:
        raise ValueError(f"{where}: boxes are always clipped, and there are no masks to recompute them from.")
    absolute = crop_type.startswith("absolute")
    sizes = _pair(where, "crop_size", crop_size, int if absolute else float)
    if (crop_type == "absolute_range" and sizes[0] > sizes[1]) or (not absolute and max(sizes) > 1):
        expected = "the least side first" if absolute else "parts of the image, up to 1"
        raise ValueError(f"{where}: crop_size is {described(crop_size)}, expected {expected}.")
    return RandomCrop(sizes, crop_type, _flag(where, "allow_negative_crop", allow_negative_crop))


def _choice(where: str, transforms: Any, prob: Any = None) -> v2.Transform:
    if not isinstance(transforms, Sequence) or isinstance(transforms, str) or not transforms:
        raise ValueError(f"{where}: transforms is {described(transforms)}, expected a list of lists.")
    branches = [
        mmdet_transforms([branch] if isinstance(branch, Mapping) else branch, f"{where}.transforms[{number}]")
        for number, branch in enumerate(transforms)
    ]
    if prob is not None:
        if not isinstance(prob, Sequence) or len(prob) != len(branches):
            raise ValueError(f"{where}: prob is {described(prob)}, expected {len(branches)} numbers.")
        prob = [_part(where, "prob", value) for value in prob]
        if sum(prob) == 0:
            raise ValueError(f"{where}: prob is {described(prob)}, of which one must be above 0.")
    return v2.RandomChoice([_one(branch) for branch in branches], p=prob)


def _apply(where: str, transforms: Any, prob: float = 0.5) -> v2.Transform:
    steps = mmdet_transforms([transforms] if isinstance(transforms, Mapping) else transforms, f"{where}.transforms")
    return v2.RandomApply([_one(steps)], _part(where, "prob", prob))


def _photometric(
    where: str,
    brightness_delta: float = 32,
    contrast_range: Any = (0.5, 1.5),
    saturation_range: Any = (0.5, 1.5),
    hue_delta: float = 18,
) -> v2.Transform:
    """torchvision's form of it, in which brightness is a factor, and hue a part of the circle."""
    contrast = _pair(where, "contrast_range", contrast_range, float)
    saturation = _pair(where, "saturation_range", saturation_range, float)
    brightness, hue = (
        _part(where, "brightness_delta", brightness_delta, 255) / 256,
        _part(where, "hue_delta", hue_delta, 180) / 360,
    )
    return v2.RandomPhotometricDistort((1 - brightness, 1 + brightness), contrast, saturation, (-hue, hue))


TRANSFORMS: dict[str, Callable[..., v2.Transform]] = {
    "RandomFlip": _flip,
    "Resize": _resize,
    "RandomResize": _random_resize,
    "RandomChoiceResize": _random_choice_resize,
    "RandomCrop": _crop,
    "RandomChoice": _choice,
    "RandomApply": _apply,
    "PhotoMetricDistortion": _photometric,
}


def _one(steps: list[v2.Transform]) -> v2.Transform:
    return steps[0] if len(steps) == 1 else v2.Compose(steps) if steps else v2.Identity()


def _pair(where: str, name: str, value: Any, kind: type) -> tuple:
    numbers = int if kind is int else (int, float)
    if (
        not isinstance(value, Sequence)
        or len(value) != 2
        or not all(isinstance(item, numbers) and not isinstance(item, bool) and item > 0 for item in value)
    ):
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{where}: {name} is {described(value)}, expected two {what} above 0.")
    return tuple(kind(item) for item in value)


def _part(where: str, name: str, value: Any, most: float = 1) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{where}: {name} is {described(value)}, expected a number from 0 to {most:g}.")
    return float(value)


def _flag(where: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {name} is {described(value)}, expected true or false.")
    return value


__all__ = ["mmdet_transforms", "resizes"]
