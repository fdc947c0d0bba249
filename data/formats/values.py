"""Single values out of the files of others."""

from array import array
from typing import Any, TypeGuard

from deformable_detr_refine.messages import described

_MOST_PIXELS_A_SIDE = 2**31 - 1


def to_box(values: Any) -> array:
    """Four numbers of an annotation, as `add_box` takes them.

    Raises:
        ValueError: they are no four numbers.
    """
    try:
        box = array("d", values)
    except (TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"{described(values)} are not four numbers") from error
    if len(box) != 4 or isinstance(values, bytes | bytearray):
        raise ValueError(f"{described(values)} are not four numbers")
    return box


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number that a column can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def id_of(value: Any) -> Any:
    """An id as it is compared: 3.0, as tables with gaps write it, is 3.

    Example:
        >>> id_of(3.0), id_of("3"), id_of(3.5)
        (3, '3', 3.5)
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def side_of(value: Any) -> int:
    """A side of an image in pixels, 0 when it is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 1 <= value <= _MOST_PIXELS_A_SIDE and value == int(value) else 0


__all__ = ["id_of", "is_whole", "side_of", "to_box"]
