"""Line plots as SVG that stands in a page: it has the page's colour and font, and scripts find each line by its key."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from numpy.typing import ArrayLike

# Of one luminance, about 4:1 against white and against near-black paper.
COLORS = ("#1f7fd0", "#c8610c", "#17915a", "#c2519a", "#8a68de", "#0f8d9c", "#9a7426", "#d94a4a")
DASHES = ("", "6 2", "2 2", "6 2 2 2")
# Replaced by the colour of the page's text.
_INK = "#010203"
# Inches, and where the axes stand in them; leaving this to matplotlib takes as long as all the rest.
_SIZE, _FRAME = (4.6, 3.1), (0.145, 0.15, 0.83, 0.79)


@dataclass(frozen=True)
class Style:
    """How a line looks, in a plot and in its legend; `dash` as in SVG's stroke-dasharray."""

    color: str = "currentColor"
    dash: str = ""
    width: float = 2.2

    @classmethod
    def number(cls, index: int) -> "Style":
        """Each of 32 differs from the others in colour or dashes."""
        return cls(COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)], 1.5)


@dataclass(frozen=True)
class Line:
    """Points (x, y) under one key, and maybe one of them marked."""

    key: str
    x: ArrayLike
    y: ArrayLike
    style: Style
    mark: tuple[float, float] | None = None


def line_plot(
    lines: Sequence[Line], x_label: str, y_label: str, text: str, unit_x: bool = False, unit_y: bool = False
) -> str:
    """Draws lines, the last one on top, as an `<svg>` element for an HTML page.

    Each line is a `<g class="line" data-key="KEY">`. No text but the axes' labels is drawn: matplotlib would read
    formulas in it.

    Args:
        text: what the plot shows, for those who do not see it.
        unit_x, unit_y: the axis goes from 0 to 1.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "deformable-detr-refine[train]".') from error
    # Text as text; the salt makes ids the same each time, and different from another plot's.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": text}):
        figure = Figure(figsize=_SIZE)
        figure.patch.set_alpha(0)
        axes = figure.add_axes(_FRAME)
        axes.patch.set_alpha(0)
        for line in lines:
            color = _INK if line.style.color == "currentColor" else line.style.color
            dashes = (0, tuple(float(part) for part in line.style.dash.split())) if line.style.dash else "-"
            gid = f"line-{line.key}"
            axes.plot(line.x, line.y, color=color, linewidth=line.style.width, linestyle=dashes, gid=gid)
            if line.mark:
                axes.plot(*line.mark, "o", color=color, markersize=6, gid=gid)
        if unit_x:
            axes.set_xlim(0, 1)
        if unit_y:
            axes.set_ylim(0, 1.02)
        axes.set_xlabel(x_label, color=_INK)
        axes.set_ylabel(y_label, color=_INK)
        axes.tick_params(colors=_INK)
        axes.ticklabel_format(scilimits=(-3, 5))
        axes.grid(color="#808080", alpha=0.25)
        axes.spines[:].set_color("#808080")
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _for_a_page(file.getvalue(), text)


def _for_a_page(svg: str, text: str) -> str:
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # A rule that would hold for the whole page.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="line-([^"]*)">', r'<g class="line" data-key="\1">', svg)
    # matplotlib numbers its groups alike in each plot, and a page may hold an id once.
    svg = re.sub(r'<g id="[\w.]+_\d+">', "<g>", svg)
    # A third of the bytes: fonts, which the page gives, and digits below a hundredth of a point.
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' (d|x|y|transform)="[^"]*"', lambda part: re.sub(r"(\.\d\d)\d+", r"\1", part[0]), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(text)}"', 1)


__all__ = ["COLORS", "DASHES", "Line", "Style", "line_plot"]
