"""Panels of a figure that show an image, or a part of it, with things drawn over it in its pixels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from deformable_detr_refine.inference.drawing import class_color

# Inches; with these a panel is about 440 dots wide.
PANEL, DPI = 3.1, 140
INK, FAINT = "#1b1f24", "#6a737d"
# x0, y0, x1, y1 in pixels of the image.
Window = tuple[float, float, float, float]


class Panels:
    """A grid of panels under a heading and a sentence that explains.

    Args:
        count: how many panels; they fill rows of at most four, as even as can be.
        heading, text: what the figure shows, in a few words and in a sentence or two.
        foot: inches below the panels, for a legend.
        under: share of a panel's side that is left free below it.
        scale: of a panel's usual side.
        aspect: a panel's height, of its width.
    """

    def __init__(
        self,
        count: int,
        heading: str,
        text: str,
        foot: float = 0.0,
        under: float = 0.0,
        scale: float = 1.0,
        aspect: float = 1.0,
    ) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('Plots need matplotlib: pip install "deformable-detr-refine[train]".') from error
        rows = -(-count // 4)
        columns = -(-count // rows)
        lines = text.count("\n") + 1
        side, gap, title, head = PANEL * scale, 0.14, 0.3, 0.62 + 0.21 * lines
        tall = side * aspect
        cell = tall * (1 + under) + title
        width, height = columns * (side + gap) + gap, head + rows * (cell + gap) + foot
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.cells = []
        for index in range(count):
            row, column = divmod(index, columns)
            left, top = gap + column * (side + gap), head + row * (cell + gap) + title
            frame = (left / width, 1 - (top + tall) / height, side / width, tall / height)
            self.cells.append(self.figure.add_axes(frame))
        self._say(gap / width, 1 - 0.12 / height, heading, fontsize=15, fontweight="bold", color=INK)
        self._say(gap / width, 1 - 0.5 / height, text, fontsize=10.5, color=FAINT, linespacing=1.35)

    def _say(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x, y, text, va="top", ha="left", parse_math=False, **style)

    def below(self, index: int) -> Any:
        """Axes in the foot, below a panel of the last row: for a colour bar."""
        height = self.figure.get_figheight()
        panel = self.cells[index].get_position()
        return self.figure.add_axes((panel.x0 + 0.02 * panel.width, 0.44 / height, 0.96 * panel.width, 0.12 / height))

    def image(self, index: int, image: Image.Image, window: Window, title: str, note: str = "") -> Any:
        """Shows a window of an image; what is drawn on the axes that are returned counts in the image's pixels."""
        axes = self.cells[index]
        axes.imshow(image, extent=(0, image.width, image.height, 0), interpolation="bilinear")
        x0, y0, x1, y1 = window
        axes.set(xlim=(x0, x1), ylim=(y1, y0), facecolor="#d5d9de", xticks=[], yticks=[])
        axes.spines[:].set_color("#aab1b9")
        self.title(index, title, note)
        return axes

    def title(self, index: int, title: str, note: str = "") -> None:
        """A heading at the left of a panel's upper edge, and a note at the right."""
        axes = self.cells[index]
        style = {"va": "bottom", "transform": axes.transAxes, "parse_math": False}
        axes.text(0, 1.018, title, ha="left", fontsize=11, fontweight="bold", color=INK, **style)
        axes.text(1, 1.018, note, ha="right", fontsize=9.5, color=FAINT, **style)

    def picture(self) -> Image.Image:
        """The figure as an RGB image."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


@contextmanager
def own_style() -> Iterator[None]:
    """matplotlib as it comes, whatever styles its user has set."""
    try:
        from matplotlib import rc_context, rcdefaults
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "deformable-detr-refine[train]".') from error
    with rc_context():
        rcdefaults()
        yield


def faded(image: Image.Image) -> Image.Image:
    """The image, of more contrast but darker and paler, so that what is drawn over it stands out and it still shows."""
    clear = ImageOps.autocontrast(image, cutoff=1, preserve_tone=True)
    return ImageEnhance.Brightness(ImageEnhance.Color(clear).enhance(0.45)).enhance(0.6)


def draw_box(
    axes: Any, box: Sequence[float] | np.ndarray, color: Any, width: float = 2.0, dashes: bool = False
) -> None:
    """The outline of an xyxy box, with a dark edge around it so that it shows on any image; or thin dashes."""
    from matplotlib.patheffects import Normal, Stroke

    x0, y0, x1, y1 = box
    corners = [x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0]
    if dashes:
        axes.plot(*corners, "-", color="black", linewidth=width, zorder=2.5)
        axes.plot(*corners, linestyle=(0, (3, 3)), color=color, linewidth=width, zorder=2.5)
    else:
        (line,) = axes.plot(*corners, "-", color=color, linewidth=width)
        line.set_path_effects([Stroke(linewidth=width + 1.4, foreground="#000000b0"), Normal()])


def color_of(label: int) -> tuple[float, ...]:
    """A class's colour, the same as in drawn detections, as matplotlib takes it."""
    return tuple(channel / 255 for channel in class_color(label))


def window_around(points: np.ndarray, image: Image.Image, margin: float = 0.25, least: float = 0.12) -> Window:
    """A square that holds the points (N, 2), with a margin on each side; beyond the image only where points are.

    Args:
        margin: of the points' extent.
        least: smallest side, of the image's shorter side.

    Example:
        >>> window_around(np.array([[10.0, 10.0], [30.0, 20.0]]), Image.new("RGB", (100, 80)))
        (5.0, 0.0, 35.0, 30.0)
    """
    low, high = points.min(0), points.max(0)
    size = np.array([image.width, image.height])
    side = max(float((high - low).max()) * (1 + 2 * margin), least * min(size))
    side = min(side, float(max(size)))
    corner = (low + high) / 2 - side / 2
    first = np.where(low < 0, low - 0.03 * side, 0)
    last = np.where(high > size, high + 0.03 * side, size)
    # Where the image is smaller than the window, it stands in the middle.
    x0, y0 = np.where(last - first >= side, np.clip(corner, first, last - side), (first + last - side) / 2)
    return float(x0), float(y0), float(x0) + side, float(y0) + side


def whole(image: Image.Image) -> Window:
    """A square with all of the image in its middle."""
    side = max(image.size)
    x0, y0 = (image.width - side) / 2, (image.height - side) / 2
    return x0, y0, x0 + side, y0 + side


__all__ = ["Panels", "color_of", "draw_box", "faded", "own_style", "whole", "window_around"]
