"""How large an image becomes: the rules of the code bases in which detectors of this family were trained.

All keep the aspect ratio and bring the short side to `shortest_edge`, or the long one to `longest_edge` if that makes
the image smaller. They differ in how they round, by up to 9 pixels.
"""

import math
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from .setting_checks import LONGEST_SIDE

SizeRule = Callable[[int, int, float, float], tuple[int, int]]


def mmdet_size(height: int, width: int, shortest_edge: float, longest_edge: float) -> tuple[int, int]:
    """(height, width) by one scale for both sides, rounded half up: MMDetection, detectron2 and detrex.

    Source: rescale_size in mmcv/image/geometric.py; ResizeShortestEdge of detectron2.

    Example:
        >>> mmdet_size(480, 640, 800, 1333)
        (800, 1067)
    """
    scale = min(longest_edge / max(height, width), shortest_edge / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def original_size(height: int, width: int, shortest_edge: float, longest_edge: float) -> tuple[int, int]:
    """(height, width) by the rounded short side, from which the long one follows, cut off: the authors' repository.

    Source: its datasets/transforms.py; transformers until 4.40.

    Example:
        >>> original_size(480, 640, 800, 1333), original_size(375, 1242, 800, 1333)
        ((800, 1066), (402, 1331))
    """
    short = round(_short_side(height, width, shortest_edge, longest_edge))
    return _with_short_side(height, width, short, short)


def transformers_size(height: int, width: int, shortest_edge: float, longest_edge: float) -> tuple[int, int]:
    """(height, width) as `original_size`, but the long side follows from the short one before it is rounded.

    Source: get_size_with_aspect_ratio in image_transforms.py of transformers 4.57 and 5.

    Example:
        >>> transformers_size(480, 640, 800, 1333), transformers_size(375, 1242, 800, 1333)
        ((800, 1066), (402, 1333))
    """
    short = _short_side(height, width, shortest_edge, longest_edge)
    return _with_short_side(height, width, round(short), short)


def _short_side(height: int, width: int, shortest_edge: float, longest_edge: float) -> float:
    short, long = min(height, width), max(height, width)
    return longest_edge * short / long if long / short * shortest_edge > longest_edge else shortest_edge


def _with_short_side(height: int, width: int, side: int, exact: float) -> tuple[int, int]:
    """The short side becomes `side`, the long one keeps its ratio to `exact`. One that has `side` already stays."""
    if min(height, width) == side:
        return height, width
    return (side, int(exact * width / height)) if height <= width else (int(exact * height / width), side)


SIZE_RULES: dict[str, SizeRule] = {
    "mmdet": mmdet_size,
    "original": original_size,
    "transformers": transformers_size,
}

NO_LIMIT = 1_000_000  # as a longest edge
_SIZE_FORMS: list[set[str]] = [
    {"shortest_edge", "longest_edge"},
    {"shortest_edge"},
    {"longest_edge"},
    {"max_height", "max_width"},
    {"height", "width"},
]


def checked_size(size: Any) -> dict[str, int]:
    """The sides by their names, of a dictionary or a SizeDict; refuses with a ValueError what is no size."""
    if not isinstance(size, dict) and not is_dataclass(type(size)):
        raise ValueError(f"size is a {type(size).__name__}, and should give sides by their names.")
    given = {name: side for name, side in dict(size).items() if side is not None}
    # Beside a shortest edge a very long one says that there is no limit.
    most = {"longest_edge": NO_LIMIT if "shortest_edge" in given else LONGEST_SIDE}
    if set(given) not in _SIZE_FORMS or not all(
        type(side) is int and 1 <= side <= most.get(name, LONGEST_SIDE) for name, side in given.items()
    ):
        forms = "; ".join(", ".join(sorted(form)) for form in _SIZE_FORMS)
        raise ValueError(
            f"size={str(given)[:100]} is none of the forms, whose sides are whole numbers of at least 1, "
            f"and {LONGEST_SIDE:,} at most: {forms}."
        )
    return given


def rule_of(name: Any) -> SizeRule:
    """The rule of that name; refuses others with a ValueError."""
    if not isinstance(name, str) or name not in SIZE_RULES:
        raise ValueError(f"size_rule={str(name)[:60]!r} is none of {', '.join(SIZE_RULES)}.")
    return SIZE_RULES[name]


def resized_shape(height: int, width: int, size: dict[str, int], rule: SizeRule) -> tuple[int, int]:
    """(height, width) of an image after resizing to a size that `checked_size` gave.

    Raises:
        ValueError: the image is so thin that a side of 0 would be left.

    Example:
        >>> resized_shape(480, 640, {"longest_edge": 320}, mmdet_size)
        (240, 320)
    """
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        resized = size_within(height, width, size["max_height"], size["max_width"], rule)
    else:
        resized = rule(height, width, size.get("shortest_edge", math.inf), size.get("longest_edge", math.inf))
    if 0 in resized:
        raise ValueError(f"An image of {width}x{height} pixels is too thin: a side of 0 would be left after resizing.")
    return resized


def nearest_edges(size: dict[str, int]) -> tuple[int, int]:
    """(shortest edge, longest edge) that come nearest to a size of any form, for what is told in edges only.

    Example:
        >>> nearest_edges({"max_height": 480, "max_width": 480}), nearest_edges({"shortest_edge": 600})
        ((480, 480), (600, 1000))
    """
    if "shortest_edge" in size:
        return size["shortest_edge"], size.get("longest_edge") or round(size["shortest_edge"] * 1333 / 800)
    if "longest_edge" in size:
        return round(size["longest_edge"] * 800 / 1333), size["longest_edge"]
    return min(size.values()), max(size.values())


def size_within(height: int, width: int, max_height: int, max_width: int, rule: SizeRule) -> tuple[int, int]:
    """(height, width) by the largest scale that keeps both sides within their maximum, rounded as the rule rounds.

    Source: get_image_size_for_max_height_width in image_utils.py of transformers, which cuts off.

    Example:
        >>> size_within(663, 943, 480, 480, mmdet_size), size_within(663, 943, 480, 480, transformers_size)
        ((337, 480), (337, 479))
    """
    scale = min(max_height / height, max_width / width)
    half = 0.5 if rule is mmdet_size else 0
    return int(height * scale + half), int(width * scale + half)


__all__ = [
    "NO_LIMIT",
    "SIZE_RULES",
    "SizeRule",
    "checked_size",
    "mmdet_size",
    "nearest_edges",
    "original_size",
    "resized_shape",
    "rule_of",
    "size_within",
    "transformers_size",
]
