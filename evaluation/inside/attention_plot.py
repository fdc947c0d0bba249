"""Where deformable attention looks, drawn over the image: the samples of one query or token, layer by layer."""

from typing import Any

import numpy as np
from PIL import Image

from .inside import AttentionSamples, Inside
from .panels import (
    INK,
    Panels,
    Window,
    draw_box,
    faded,
    own_style,
    whole,
    window_around,
)

# Finest level first: light to dark would say more or less, these say which; apart for the colour-blind too.
LEVEL_COLORS = ("#ffe14d", "#4cc2ff", "#ff7ab8", "#63e08a", "#ff9d4d", "#c9a6ff")
# Points of area for a sample with all the weight of its head.
_AREA = 420


def plot_query(inside: Inside, query: int) -> Image.Image:
    """Draws where a query of the decoder looks in every layer: its samples at all heads, levels and points.

    A dot is a sample, its area the attention weight, its colour the level of the pyramid. The dashed box is the one
    that the layer starts from, the solid one what it makes of it.

    Args:
        inside: from `look_inside`.
        query: which, e.g. the first of `inside.best_queries()`.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there is no such query.
        ImportError: matplotlib is missing.
    """
    samples = inside.query_samples(query)
    layers, label = len(samples.points), inside.label(query)
    before, after = inside.layer_starts(query), inside.layer_boxes[:, query]
    seen = [after.reshape(-1, 2), *(start.reshape(-1, 2) for start in before), *_weighty(samples, inside.image)]
    window = window_around(np.concatenate(seen), inside.image, margin=0.1)
    score = inside.layer_scores[-1, query, label]
    with own_style():
        panels = Panels(
            layers + 1,
            f"Where query {query} looks, layer by layer: {inside.id2label[label]} {score:.2f}",
            f"{_says(samples)} of the decoder.\nDashed: the box that the layer starts from, and in the whole image "
            "what the panels show; solid: the box it gives.",
            foot=0.42,
            under=0.11,
        )
        axes = panels.image(0, inside.image, whole(inside.image), "Image")
        draw_box(axes, after[-1], "white")
        _mark_window(axes, window, inside.image)
        dark = faded(inside.image)
        for layer in range(layers):
            score = inside.layer_scores[layer, query, label]
            note = f"{inside.id2label[label]} {score:.2f}"
            axes = panels.image(layer + 1, dark, window, f"Decoder layer {layer + 1}", note)
            if len(before[layer]) == 4:
                draw_box(axes, before[layer], "white", 1.0, dashes=True)
            else:
                _cross(axes, before[layer])
            draw_box(axes, after[layer], "white", 1.8)
            _dots(axes, samples, layer)
            _shares(axes, samples, layer)
        _legend(panels, inside)
        return panels.picture()


def plot_token(inside: Inside, x: float, y: float, level: int = 0) -> Image.Image:
    """Draws where a token of the encoder looks in every layer: the cell of a level at the point (x, y).

    Args:
        inside: from `look_inside`.
        x, y: in pixels of the original image.
        level: of the pyramid; 0 is the finest.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the point is outside the image, or there is no such level.
        ImportError: matplotlib is missing.
    """
    token = inside.token_at(x, y, level)
    samples, centre = inside.token_samples(token), np.array(inside.token_centre(token))
    layers = len(samples.points)
    window = window_around(np.concatenate([centre[None], *_weighty(samples, inside.image)]), inside.image, margin=0.1)
    with own_style():
        panels = Panels(
            layers + 1,
            f"Where a token of level {level} looks, layer by layer (its cell: {centre[0]:.0f}, {centre[1]:.0f})",
            f"{_says(samples)} of the encoder. Cross: the token's own cell, around which it looks; "
            "outside the image are zeros.",
            foot=0.42,
            under=0.11,
        )
        axes = panels.image(0, inside.image, whole(inside.image), "Image")
        _mark_window(axes, window, inside.image)
        _cross(axes, centre)
        dark = faded(inside.image)
        for layer in range(layers):
            axes = panels.image(layer + 1, dark, window, f"Encoder layer {layer + 1}")
            _dots(axes, samples, layer)
            _cross(axes, centre)
            _shares(axes, samples, layer)
        _legend(panels, inside)
        return panels.picture()


def _weighty(samples: AttentionSamples, image: Image.Image, share: float = 0.9) -> list[np.ndarray]:
    """Of each layer the samples that make up most of its weight, (N, 2) each, moved into the image."""
    heaviest = []
    for points, weights in zip(samples.points, samples.weights, strict=True):
        order = np.argsort(-weights, axis=None)
        count = int(np.searchsorted(np.cumsum(weights.flat[order]), share * weights.sum())) + 1
        heaviest.append(points.reshape(-1, 2)[order[:count]].clip(0, image.size))
    return heaviest


def _dots(axes: Any, samples: AttentionSamples, layer: int) -> None:
    """The samples of a layer, the heaviest first so that none hides a lighter one."""
    points, weights = samples.points[layer], samples.weights[layer]
    colors = np.array([LEVEL_COLORS[level % len(LEVEL_COLORS)] for level in range(points.shape[1])])
    colors = np.broadcast_to(colors[None, :, None], weights.shape).ravel()
    order = np.argsort(-weights, axis=None)
    axes.scatter(
        *points.reshape(-1, 2)[order].T,
        s=_AREA * weights.ravel()[order],
        c=colors[order],
        edgecolors="#000000a0",
        linewidths=0.5,
        alpha=0.9,
        zorder=3,
    )


def _cross(axes: Any, point: np.ndarray) -> None:
    for color, width, size in (("black", 4.0, 17), ("white", 2.0, 15)):
        axes.plot(*point, "+", color=color, markersize=size, markeredgewidth=width, zorder=4)


def _mark_window(axes: Any, window: Window, image: Image.Image) -> None:
    if window != whole(image):
        draw_box(axes, window, "white", 1.0, dashes=True)


def _shares(axes: Any, samples: AttentionSamples, layer: int) -> None:
    """A bar below the panel: how the layer's weight is spread over the levels."""
    left = 0.0
    for level, share in enumerate(samples.level_shares()[layer]):
        color = LEVEL_COLORS[level % len(LEVEL_COLORS)]
        options = {"transform": axes.transAxes, "clip_on": False}
        axes.barh(-0.062, share, 0.075, left, color=color, edgecolor="white", linewidth=1, **options)
        if share > 0.09:
            axes.text(
                left + share / 2, -0.063, f"{share:.0%}", ha="center", va="center", fontsize=9, color=INK, **options
            )
        left += share


def _legend(panels: Panels, inside: Inside) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=9, color=color, markeredgecolor="#00000080")
        for color, _ in zip(LEVEL_COLORS * 2, inside.level_shapes, strict=False)
    ]
    texts = [f"level {level}: {w} x {h} cells" for level, (h, w) in enumerate(inside.level_shapes)]
    texts[0] += " (finest)"
    panels.figure.legend(
        handles,
        texts,
        loc="lower left",
        bbox_to_anchor=(0.005, 0.0),
        ncols=min(len(texts), 6),
        frameon=False,
        fontsize=10.5,
        labelcolor=INK,
        handletextpad=0.2,
        columnspacing=1.6,
    )


def _says(samples: AttentionSamples) -> str:
    _, heads, levels, points = samples.weights.shape
    return (
        f"A dot is a sample, {heads} heads x {levels} levels x {points} points; its area is the attention weight, its "
        f"colour the level.\nThe bar below a panel: the levels' shares of all weight in that layer"
    )


__all__ = ["LEVEL_COLORS", "plot_query", "plot_token"]
