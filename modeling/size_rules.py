"""How large an image becomes: the rules of the code bases in which detectors of this family were trained.

All keep the aspect ratio and bring the short side to `shortest_edge`, or the long one to `longest_edge` if that makes
the image smaller. They differ in how they round, by up to 9 pixels.
"""

from collections.abc import Callable


def mmdet_size(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """(height, width) by one scale for both sides, rounded half up: MMDetection, detectron2 and detrex.

    Source: rescale_size in mmcv/image/geometric.py; ResizeShortestEdge of detectron2.

    Example:
        >>> mmdet_size(480, 640, 800, 1333)
        (800, 1067)
    """
    scale = min(longest_edge / max(height, width), shortest_edge / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def original_size(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """(height, width) by the rounded short side, from which the long one follows, cut off: the authors' repository.

    Source: its datasets/transforms.py; transformers until 4.40.

    Example:
        >>> original_size(480, 640, 800, 1333), original_size(375, 1242, 800, 1333)
        ((800, 1066), (402, 1331))
    """
    short = round(_short_side(height, width, shortest_edge, longest_edge))
    return _with_short_side(height, width, short, short)


def transformers_size(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """(height, width) as `original_size`, but the long side follows from the short one before it is rounded.

    Source: get_size_with_aspect_ratio in image_transforms.py of transformers 4.57 and 5.

    Example:
        >>> transformers_size(480, 640, 800, 1333), transformers_size(375, 1242, 800, 1333)
        ((800, 1066), (402, 1333))
    """
    short = _short_side(height, width, shortest_edge, longest_edge)
    return _with_short_side(height, width, round(short), short)


def _short_side(height: int, width: int, shortest_edge: int, longest_edge: int) -> float:
    short, long = min(height, width), max(height, width)
    return longest_edge * short / long if long / short * shortest_edge > longest_edge else shortest_edge


def _with_short_side(height: int, width: int, side: int, exact: float) -> tuple[int, int]:
    """The short side becomes `side`, the long one keeps its ratio to `exact`. One that has `side` already stays."""
    if min(height, width) == side:
        return height, width
    return (side, int(exact * width / height)) if height <= width else (int(exact * height / width), side)


SIZE_RULES: dict[str, Callable[[int, int, int, int], tuple[int, int]]] = {
    "mmdet": mmdet_size,
    "original": original_size,
    "transformers": transformers_size,
}

__all__ = ["SIZE_RULES", "mmdet_size", "original_size", "transformers_size"]
