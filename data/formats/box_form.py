"""Which form boxes have, whatever their file calls it: corners, a corner and a size, a centre and a size."""

from typing import Literal

import numpy as np

from ..defects import DataError, box_faults

Form = Literal["xywh", "xyxy", "cxcywh"]
FORMS: dict[str, str] = {
    "xywh": "x, y, width, height",
    "xyxy": "corners x0, y0, x1, y1",
    "cxcywh": "centre x, centre y, width, height",
}
_ENOUGH_BOXES = 10
_ENOUGH_SHARE = 0.1
_DEFECTIVE_SHARE = 0.01  # real sets hold a few boxes that fit in no form
_SAME_AREA = 0.01  # relative; areas are often whole numbers


def as_xywh(boxes: np.ndarray, form: str) -> np.ndarray:
    """(N, 4) boxes of a form as x, y, width, height, in the same unit.

    Example:
        >>> as_xywh(np.array([[2, 4, 6, 10]]), "xyxy").tolist(), as_xywh(np.array([[4, 7, 4, 6]]), "cxcywh").tolist()
        ([[2, 4, 4, 6]], [[2.0, 4.0, 4.0, 6.0]])
    """
    first, second = boxes[:, :2], boxes[:, 2:]
    if form == "xyxy":
        second = second - first
    elif form == "cxcywh":
        first = first - second / 2
    return np.concatenate([first, second], axis=1)


def box_form(
    boxes: np.ndarray,
    sizes: np.ndarray,
    areas: np.ndarray | None = None,
    stated: str = "xywh",
    parts: bool = False,
) -> str:
    """Tells the form of the boxes of a whole split: the stated one, unless that is impossible.

    Args:
        boxes: (N, 4) of one split, in pixels (parts of the image already multiplied by its size).
        sizes: (N, 2) width and height of each box's image in pixels.
        areas: (N,) as the data set states them, if it does.
        stated: the form that their file is known for, a key of `FORMS`.
        parts: the file is known for parts of the image, 0..1, not for pixels.

    Returns:
        Another form when in the stated one at least ten boxes and a tenth of them do not fit in their images, and in
        the other one none or a hundredth of those; or "xyxy" when only as corners the stated areas are those of the
        boxes. "either" when some do not fit as stated, and all do in another form, but they are too few to be sure (a
        centre is not thought of then: a few boxes fit too easily). Else the stated one.

    Raises:
        DataError: they are parts of the image where the file is known for pixels, or pixels where it is for parts.

    Example:
        >>> corners = np.array([[300, 200, 400 + i, 300] for i in range(20)])
        >>> size = np.array([[640, 480]] * 20)
        >>> box_form(corners, size), box_form(corners - [0, 0, 300, 200], size), box_form(corners[:3], size[:3])
        ('xyxy', 'xywh', 'either')
        >>> box_form(as_xywh(corners, "xyxy"), size, stated="xyxy")
        'xywh'
    """
    boxes, sizes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(sizes).reshape(-1, 2)
    if not len(boxes):
        return stated
    with np.errstate(invalid="ignore"):
        _check_unit(boxes, sizes, stated, parts)
        if stated == "xywh" and areas is not None:
            as_corners = as_xywh(boxes, "xyxy")
            if _areas_of(as_corners, areas).all() and not _areas_of(boxes, areas).any():
                return "xyxy"
        unfit = {form: int((box_faults(as_xywh(boxes, form), sizes) != 0).sum()) for form in FORMS}
    others = sorted((count, form) for form, count in unfit.items() if form != stated)
    sure = [form for count, form in others if count <= _DEFECTIVE_SHARE * unfit[stated]]
    if len(sure) > 1 and stated != "cxcywh":
        sure.remove("cxcywh")  # what fits as both is far likelier no centre
    if unfit[stated] >= max(_ENOUGH_BOXES, _ENOUGH_SHARE * len(boxes)) and len(sure) == 1:
        return sure[0]
    maybe = [form for count, form in others if not count and form != "cxcywh"]
    return "either" if unfit[stated] and maybe else stated


def _check_unit(boxes: np.ndarray, sizes: np.ndarray, stated: str, parts: bool) -> None:
    in_parts = boxes / np.concatenate([sizes, sizes], axis=1)
    if parts:
        wrong = np.abs(in_parts).max(1) > 2  # what stands a little over the edge is a defect of its own
        if wrong.mean() >= 1 - _DEFECTIVE_SHARE:
            raise DataError(
                f"the boxes are no parts of the image, 0..1, but pixels (up to {np.nanmax(in_parts):g}); give "
                f"{FORMS[stated]} divided by the image's width and height."
            )
    else:
        wrong = (boxes <= 1).all(1) & (boxes >= 0).all(1) & (sizes > 4).all(1)
        if wrong.mean() >= 1 - _DEFECTIVE_SHARE:
            raise DataError(f"all boxes lie in 0..1, so they are parts of the image; give {FORMS[stated]} in pixels.")


def _areas_of(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(N,) whether the stated areas are the boxes' own."""
    return np.isclose(boxes[:, 2] * boxes[:, 3], areas, rtol=_SAME_AREA, atol=1)


__all__ = ["FORMS", "Form", "as_xywh", "box_form"]
