"""results.json -> results.svg: how much faster, and how times grow. Readable on light and on dark paper.

python benchmarks/plot.py
"""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

HERE = Path(__file__).parent
OURS, STOCK, MMDET = "this package", "transformers' own", "MMDetection 3.1.0"
# Of one luminance, about 4:1 against white and against near-black; grey text has the same.
COLORS = {OURS: "#1f7fd0", STOCK: "#c8610c", MMDET: "#17915a"}
INK = "#7d8590"
STYLES = {"inference": "-", "training": (0, (4, 2))}
NAMES = {"inference": "inference", "training": "training step"}


def draw(sections: dict[str, dict]) -> Figure | None:
    """What was measured of: speed-ups above, curves below; None when nothing was."""
    ratios = speed_ups(sections)
    curves = [name for name in ("sizes", "batches") if name in sections]
    if not ratios and not curves:
        return None
    heights = [0.42 * len(ratios) + 0.5] * bool(ratios) + [3.2] * bool(curves)
    figure = Figure(figsize=(9, sum(heights) + 0.9), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if ratios:
        draw_bars(parts[0].subplots(), ratios)
    if curves:
        for axes, name in zip(parts[-1].subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
            draw_curve(axes, name, sections[name]["numbers"])
        handles = [Line2D([], [], color=COLORS[name], label=name) for name in (STOCK, MMDET, OURS)]
        handles += [Line2D([], [], color=INK, linestyle=STYLES[work], label=NAMES[work]) for work in STYLES]
        parts[-1].legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, labelcolor=INK)
    for part in [figure, *parts]:
        part.patch.set_alpha(0)
    return figure


def speed_ups(sections: dict[str, dict]) -> list[tuple[str, dict[str, float]]]:
    """What is compared, and how much better ours is than each peer."""
    found = []
    for row in sections.get("operator", {}).get("numbers", {}).get("times", []):
        if row["shape"].startswith("encoder, around") and row["threads"] == 2:
            best = row["milliseconds"]
            found.append((f"operator, {row['pass']}", {STOCK: best["reference"] / best["c"]}))
    names = {"inference": "inference", "training": "training step", "memory": "memory of a training step"}
    for work, title in names.items():
        best = sections.get(work, {}).get("numbers", {}).get(work, {})
        if OURS in best:
            found.append((title, {peer: best[peer] / best[OURS] for peer in (STOCK, MMDET) if peer in best}))
    return found


def draw_bars(axes, ratios: Sequence[tuple[str, dict[str, float]]]) -> None:
    for place, (_, by_peer) in enumerate(ratios):
        thickness = 0.76 / len(by_peer)
        for number, (peer, ratio) in enumerate(by_peer.items()):
            y = place + (number - (len(by_peer) - 1) / 2) * thickness
            axes.barh(y, ratio, 0.9 * thickness, color=COLORS[peer])
            axes.annotate(f"{ratio:.1f}x", (ratio, y), (4, 0), textcoords="offset points", va="center", color=INK)
    largest = max(ratio for _, by_peer in ratios for ratio in by_peer.values())
    axes.set(xscale="log", xlim=(1, largest * 1.3), yticks=range(len(ratios)), yticklabels=[name for name, _ in ratios])
    axes.invert_yaxis()
    axes.set_title("This package is faster, or smaller, by (800x1333, fp32, 2 threads)", color=INK, fontsize=10)
    marks = [mark for mark in (1, 2, 3, 5, 10, 20, 50, 100) if mark <= largest * 1.3]
    plain(axes, axes.xaxis, marks)
    axes.tick_params(axis="y", length=0)
    # The operator's peer is the form that both use.
    present = [peer for peer in (STOCK, MMDET) if any(peer in by_peer for _, by_peer in ratios)]
    handles = [Patch(color=COLORS[peer], label=f"than {peer}") for peer in present]
    axes.legend(handles=handles, loc="lower right", frameon=False, labelcolor=INK)


def draw_curve(axes, name: str, numbers: dict[str, list[dict]]) -> None:
    by_size = name == "sizes"
    for work, points in numbers.items():
        for detector, color in COLORS.items():
            measured = [
                (point["pixels" if by_size else "batch"], point["seconds"][detector])
                for point in points
                if detector in point["seconds"]
            ]
            if measured:
                axes.plot(*zip(*measured, strict=True), color=color, linestyle=STYLES[work], marker="o", markersize=3.5)
    points = next(iter(numbers.values()))
    axes.set(xscale="log", yscale="log", ylabel="seconds")
    axes.yaxis.label.set_color(INK)
    title = "One image of growing size" if by_size else f"Batches of {points[0]['size']}"
    axes.set_title(title, color=INK, fontsize=10)
    marks = {point["pixels" if by_size else "batch"]: point["size" if by_size else "batch"] for point in points}
    plain(axes, axes.yaxis, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50))
    plain(axes, axes.xaxis, list(marks), list(map(str, marks.values())))
    axes.grid(color=INK, alpha=0.25, linewidth=0.6)


def plain(axes, axis, marks: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """Ticks at these places only, as plain numbers, in the colour of the text."""
    low, high = axis.get_view_interval()
    axis.set_ticks([mark for mark in marks if low <= mark <= high] if labels is None else marks, labels)
    if labels is None:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))


def main() -> None:
    sections = json.loads((HERE / "results.json").read_text())["sections"]
    # Text as text, for size; a salt and no date, so that the same figures give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "results", "font.size": 9}):
        figure = draw(sections)
        if figure is not None:
            aside = HERE / "results.svg.new"
            FigureCanvasSVG(figure).print_svg(aside, metadata={"Date": None, "Title": "Benchmarks"})
            aside.replace(HERE / "results.svg")


if __name__ == "__main__":
    main()
