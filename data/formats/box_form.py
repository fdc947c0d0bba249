"""Which form boxes without a name have: x, y, width, height or corners. Never guessed silently."""

from typing import Literal

import numpy as np

from ..defects import DataError, box_faults

_ENOUGH_BOXES = 10
_ENOUGH_SHARE = 0.1
_DEFECTIVE_SHARE = 0.01  # real sets hold a few boxes that fit in no form
_SAME_AREA = 0.01  # relative; areas are often whole numbers


def box_form(
    boxes: np.ndarray, sizes: np.ndarray, areas: np.ndarray | None = None
) -> Literal["xywh", "xyxy", "either"]:
    """Tells corners from x, y, width, height, where the boxes of a whole split can only be the one.

    The Hub's usual form is x, y, width, height in pixels, and that is what boxes are unless it is impossible.

    Args:
        boxes: (N, 4) of one split.
        sizes: (N, 2) width and height of each box's image in pixels.
        areas: (N,) as the data set states them, if it does.

    Returns:
        "xyxy" when as x, y, width, height at least ten and a tenth of them do not fit in their images, and as corners
        none or a hundredth of those; or when only as corners the stated areas are those of the boxes. "either" when
        some do not fit as x, y, width, height, and all do as corners, but they are too few to be sure. Else "xywh".

    Raises:
        DataError: they are parts of the image, 0..1, which no pixel box is.

    Example:
        >>> corners = np.array([[300, 200, 400 + i, 300] for i in range(20)])
        >>> size = np.array([[640, 480]] * 20)
        >>> box_form(corners, size), box_form(corners - [0, 0, 300, 200], size), box_form(corners[:3], size[:3])
        ('xyxy', 'xywh', 'either')
    """
    boxes, sizes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(sizes).reshape(-1, 2)
    if not len(boxes):
        return "xywh"
    with np.errstate(invalid="ignore"):
        if (boxes <= 1).all() and (boxes >= 0).all() and (sizes > 4).all():
            raise DataError(
                "all boxes lie in 0..1, so they are parts of the image; give x, y, width, height in pixels."
            )
        corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        if areas is not None and _areas_of(corners, areas).all() and not _areas_of(boxes, areas).any():
            return "xyxy"
        unfit, unfit_corners = (int((box_faults(given, sizes) != 0).sum()) for given in (boxes, corners))
    if unfit >= max(_ENOUGH_BOXES, _ENOUGH_SHARE * len(boxes)) and unfit_corners <= _DEFECTIVE_SHARE * unfit:
        return "xyxy"
    return "either" if unfit and not unfit_corners else "xywh"


def _areas_of(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(N,) whether the stated areas are the boxes' own."""
    return np.isclose(boxes[:, 2] * boxes[:, 3], areas, rtol=_SAME_AREA, atol=1)


__all__ = ["box_form"]
