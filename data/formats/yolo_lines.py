"""One line of YOLO's labels: a box, a polygon, or what only looks like one."""

from array import array
from pathlib import Path

from deformable_detr_refine.messages import printable

TRACK = "the line looks like class, box, confidence and track id, which are no polygon; a box has 5 numbers"
_KEY_POINTS = "the line looks like a box with key points: data.yaml needs kpt_shape: [number of key points, 2 or 3]"


def numbers_of(words: list[str]) -> tuple[int, list[float]]:
    """Class number and the other numbers of one line."""
    try:
        values = [float(word) for word in words[1:]]
        number = int(words[0]) if words[0].isascii() and words[0].isdigit() else int(words[0].removesuffix(".0"))
    except ValueError as error:
        raise ValueError(f"the line is not made of numbers: {printable(' '.join(words))}") from error
    return number, values


def box_of(values: list[float], key_points: int | None) -> array:
    """Centre x, centre y, width, height of one line's box, or of the box around its polygon.

    Raises:
        ValueError: it is neither.
    """
    count = len(values)
    if count == 4 or (key_points is not None and count == 4 + key_points):
        return array("d", values[:4])
    what = f"the line has {count + 1} numbers"
    if key_points is not None:
        raise ValueError(
            f"{what}; with data.yaml's kpt_shape it has 5 (class cx cy w h) and {key_points} of key points"
        )
    if count < 6 or count % 2:
        hint = "; a sixth is an angle or a confidence" if count == 5 else ""
        hint = "; key points need kpt_shape in data.yaml" if count > 6 else hint
        raise ValueError(f"{what}; a box has 5 (class cx cy w h), a polygon 7 or more, odd{hint}")
    if not all(-0.5 <= value <= 1.5 for value in values):
        raise ValueError(f"{what}, but is no polygon: not all of them are parts of the image, 0..1")
    x0, y0, x1, y1 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return array("d", ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0))


def doubt_of(values: list[float]) -> str | None:
    """Why a line that could be a polygon may be a box with more behind it; None where it cannot."""
    if len(values) == 6 and values[-1].is_integer():
        return TRACK
    cx, cy, w, h = values[:4]
    for step in (2, 3):
        points = [values[start : start + 2] for start in range(4, len(values), step)]
        inside = all((x, y) == (0, 0) or (abs(x - cx) <= w / 2 and abs(y - cy) <= h / 2) for x, y in points)
        if len(values) >= 8 and (len(values) - 4) % step == 0 and inside:
            return _KEY_POINTS
    return None


def looks_like_labels(file: Path) -> bool:
    """Whether it holds boxes, or nothing; lists of images and of class names lie beside labels too."""
    with file.open("rb") as opened:
        words = opened.read(2**12).split()
    return not words or (len(words) > 4 and all(map(_is_number, words[:5])))


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


__all__ = ["TRACK", "box_of", "doubt_of", "looks_like_labels", "numbers_of"]
