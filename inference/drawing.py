"""Boxes drawn for people: sizes follow the image, every class keeps its colour, chips avoid each other."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deformable_detr_refine.messages import printable

Color = tuple[int, int, int]
Rect = tuple[int, int, int, int]

# Okabe and Ito's palette, which stays distinct for the colour-blind, without black, strong colours first.
PALETTE: tuple[Color, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0)),
    *((204, 121, 167), (240, 228, 66), (0, 114, 178)),
)
SHADOW = (0, 0, 0, 110)

# Up to this many boxes every one gets its chip, if need be over another; beyond, only where there is room and while
# all chips together leave most of the image to be seen.
ALWAYS_LABELLED = 8
CHIP_SHARE = 0.16
MOST_CHIPS = 300  # of the best scores: as many boxes as a detector gives
LONGEST_TEXT = 200


def class_color(label: int) -> Color:
    """The colour of a class: the palette, then the palette lighter, then darker, and so on.

    Example:
        >>> class_color(0), class_color(7), class_color(14)
        ((230, 159, 0), (240, 195, 97), (143, 99, 0))
    """
    turn, index = divmod(int(label), len(PALETTE))
    target, share = ((0, 0.0), (255, 0.38), (0, 0.38))[turn % 3]
    red, green, blue = (round(channel * (1 - share) + target * share) for channel in PALETTE[index])
    return red, green, blue


def text_color(background: Color) -> Color:
    """Black or white, whichever has the higher contrast (WCAG's relative luminance) on a colour.

    Example:
        >>> text_color((240, 228, 66)), text_color((0, 60, 110))
        ((0, 0, 0), (255, 255, 255))
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def draw_boxes(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    texts: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    colors: Sequence[Color] | None = None,
    letters: float = 1.0,
) -> Image.Image:
    """Draws N boxes with a text chip each into a copy of an RGB image.

    Line and letters scale with the image and get finer where boxes are many or small. The best scores choose their
    chip's place first; with many boxes, a chip that finds no room is left out.

    Args:
        image: RGB.
        boxes: (N, 4) xyxy in pixels of this image.
        labels: (N,) class ids, which choose the colours.
        texts: (N,) what the chips say.
        scores: (N,) the higher, the earlier a chip is placed.
        colors: (N,) in place of the classes' own.
        letters: factor on their size, for a picture that is shown smaller than it is.

    Returns:
        A new RGB image of the same size.
    """
    picture = image.convert("RGB").copy()
    colors = [class_color(label) for label in labels] if colors is None else colors
    draw = ImageDraw.Draw(picture, "RGBA")
    rects = [_inside(box, picture.size) for box in boxes]
    by_area = sorted(range(len(rects)), key=lambda i: -_area(rects[i]))
    line = _line_width(picture.size, len(rects))
    for i in by_area:
        _draw_rect(draw, rects[i], colors[i], line)
    font = _font(round(letters * _font_size(picture.size, len(rects))))
    texts = [_fit(printable(text), font, picture.width) for text in texts]
    chips = _place_chips(rects, texts, scores, font, line, picture.size)
    for i, chip in sorted(chips.items(), key=lambda item: scores[item[0]]):
        _draw_chip(draw, chip, texts[i], colors[i], font)
    return picture


def _line_width(size: tuple[int, int], count: int) -> int:
    return max(1, round(math.sqrt(size[0] * size[1]) / 220 / _crowding(count)))


def _font_size(size: tuple[int, int], count: int) -> int:
    return max(10, round(math.sqrt(size[0] * size[1]) / 36 / _crowding(count)))


def _crowding(count: int) -> float:
    """By how much lines and letters shrink: not up to 20 boxes, by 1.6 at 100."""
    return 1 + 0.25 * math.log2(max(count, 20) / 20)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _inside(box: np.ndarray, size: tuple[int, int]) -> Rect:
    """The pixels (inclusive) on which the outline lies, moved into the image so that no side gets lost."""
    width, height = size
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, min(max(x1 - 1, x0), width - 1), min(max(y1 - 1, y0), height - 1)


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0] + 1) * (rect[3] - rect[1] + 1)


def _areas(rects: np.ndarray) -> np.ndarray:
    return (rects[:, 2:] - rects[:, :2] + 1).prod(1)


def _shared(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) pixels that rectangles (N, 4) have in common with others (M, 4)."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return (high - low + 1).clip(0).prod(2)


def _draw_rect(draw: ImageDraw.ImageDraw, rect: Rect, color: Color, line: int) -> None:
    # A small box keeps a hole to look through.
    line = max(1, min(line, min(rect[2] - rect[0], rect[3] - rect[1]) // 6))
    edge = 1 if line < 6 else 2
    x0, y0, x1, y1 = rect
    draw.rectangle((x0 - edge, y0 - edge, x1 + edge, y1 + edge), outline=SHADOW, width=edge)
    draw.rectangle(rect, outline=color, width=line)
    inner = (x0 + line, y0 + line, x1 - line, y1 - line)
    if inner[2] - inner[0] > 2 * edge and inner[3] - inner[1] > 2 * edge:
        draw.rectangle(inner, outline=SHADOW, width=edge)


def _place_chips(rects, texts, scores, font, line, size) -> dict[int, Rect]:
    """Chooses a place for each chip, best score first; index -> rectangle of the chips that are drawn."""
    placed: dict[int, Rect] = {}
    budget = CHIP_SHARE * size[0] * size[1]
    boxes = np.array(rects, np.int64).reshape(-1, 4)
    for i in sorted(range(len(rects)), key=lambda i: -float(scores[i]))[:MOST_CHIPS]:
        places = _chip_places(rects[i], *_chip_size(texts[i], font), line, size)
        costs = _costs(np.array(places), i, boxes, np.array([*placed.values()], np.int64).reshape(-1, 4))
        best = int(np.argmin(costs + 0.01 * np.arange(len(places))))
        cost, chip = costs[best] + 0.01 * best, places[best]
        has_room = cost < 1 and _area(chip) <= budget
        if has_room or len(rects) <= ALWAYS_LABELLED:
            placed[i] = chip
            budget -= _area(chip)
    return placed


def _costs(chips: np.ndarray, own: int, boxes: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """(P,) of chips (P, 4): 1 and more for what hides another chip or most of another box, less for what touches."""
    over = _shared(chips, placed)
    costs = ((over > 0) + 4 * over / _areas(chips)[:, None]).sum(1)
    hidden = _shared(chips, boxes) / _areas(boxes)
    hidden_own = hidden[:, own].copy()
    hidden[:, own] = 0
    return costs + 0.2 * hidden_own + (0.5 * hidden + (hidden > 0.5)).sum(1)


def _fit(text: str, font, width: int) -> str:
    """The text, or its beginning if the chip would be wider than the image."""
    for length in range(min(len(text), LONGEST_TEXT), 0, -1):
        shortened = text if length == len(text) else text[:length].rstrip() + "..."
        if _chip_size(shortened, font)[0] <= width:
            return shortened
    return ""


def _chip_size(text: str, font) -> tuple[int, int]:
    ascent, descent = font.getmetrics() if hasattr(font, "getmetrics") else (11, 0)
    pad = max(2, ascent // 4)
    return math.ceil(font.getlength(text)) + 2 * pad, ascent + descent + pad // 2


def _chip_places(rect: Rect, width: int, height: int, line: int, size: tuple[int, int]) -> list[Rect]:
    """Above, inside, below, beside the box, then a row further away, best first; each moved into the image."""
    x0, y0, x1, y1 = rect
    right, bottom = x1 - width + 1, y1 - height + 1
    corners = [
        *((x0, y0 - height), (right, y0 - height)),
        *((x0 + line, y0 + line), (x0, y1 + 1), (right, y1 + 1)),
        *((right - line, y0 + line), (x0 + line, bottom - line), (right - line, bottom - line)),
        *((x1 + 1, y0), (x0 - width, y0), (x1 + 1, bottom), (x0 - width, bottom)),
        *((x0, y0 - 2 * height), (x0 + line, y0 + line + height), (x0, y1 + 1 + height)),
    ]
    places = []
    for x, y in corners:
        x, y = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        places.append((x, y, x + width - 1, y + height - 1))
    return list(dict.fromkeys(places))


def _draw_chip(draw: ImageDraw.ImageDraw, chip: Rect, text: str, color: Color, font) -> None:
    draw.rectangle(chip, fill=color)
    middle = ((chip[0] + chip[2] + 1) / 2, (chip[1] + chip[3] + 1) / 2)
    draw.text(middle, text, fill=text_color(color), font=font, anchor="mm")
