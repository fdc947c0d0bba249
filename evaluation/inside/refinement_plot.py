"""From the first stage to the last box: what is proposed, what becomes of it, and how one box is refined."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from deformable_detr_refine.inference.detections import THRESHOLD, Detections

from .inside import Inside
from .panels import (
    DPI,
    FAINT,
    INK,
    PANEL,
    Panels,
    color_of,
    draw_box,
    faded,
    own_style,
    whole,
    window_around,
)

SCORED = 8


def plot_proposals(inside: Inside, threshold: float = THRESHOLD) -> Image.Image:
    """Draws what the first stage hands to the decoder, beside what the decoder makes of it.

    Left the proposals that become queries, coloured by score; right the boxes with a score above `threshold` after the
    last layer.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the detector has no first stage.
        ImportError: matplotlib is missing.
    """
    if inside.proposals is None:
        raise ValueError("This detector has no first stage: its queries are learned, and propose nothing.")
    count = len(inside.start)
    boxes, scores = inside.proposals.boxes[:count], inside.proposals.scores[:count]
    with own_style():
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        kept = inside.best_queries(threshold)
        panels = Panels(
            2,
            f"{count} proposals of the first stage, {len(kept)} detections of the decoder",
            f"Each of {len(inside.centres):,} tokens of the encoder proposes a box; the {count} with the best scores "
            "become the decoder's queries.\nA proposal's score says 'object or not'; its class comes from the decoder.",
            foot=0.55,
            scale=1.9,
            aspect=inside.image.height / inside.image.width,
        )
        view = (0, 0, *inside.image.size)
        axes = panels.image(0, faded(inside.image), view, f"Proposals: all {count}, the best {SCORED} with scores")
        shades = ScalarMappable(Normalize(0, max(float(scores.max()), 1e-3)), "plasma")
        for rank in reversed(range(count)):
            draw_box(axes, boxes[rank], shades.to_rgba(scores[rank]), 1.9 if rank < SCORED else 1.1)
        for rank in range(min(SCORED, count)):
            x0, y0 = np.maximum(boxes[rank, :2], (0, 0.04 * inside.image.height))
            shade = shades.to_rgba(scores[rank])
            axes.text(
                x0, y0, f"{scores[rank]:.2f}", fontsize=9, va="bottom", color="black", clip_on=True,
                bbox={"facecolor": shade, "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
        bar = panels.figure.colorbar(shades, cax=panels.below(0), orientation="horizontal")
        bar.set_label("score of a proposal", fontsize=10, color=INK)
        bar.ax.tick_params(labelsize=9, colors=INK)
        bar.outline.set_visible(False)
        drawn = _drawn(inside, kept, round(PANEL * DPI * 1.9))
        panels.image(1, drawn, (0, 0, *drawn.size), f"After the decoder: score above {threshold:g}")
        return panels.picture()


def plot_refinement(inside: Inside, query: int, truth: Sequence[float] | None = None) -> Image.Image:
    """Draws how one query's box moves from the first stage (or the learned point) through every decoder layer.

    One panel per step, the box of the step before dashed; the last panel shows, over the steps, the class's score and
    how much each box overlaps the last one (IoU), or the true one.

    Args:
        inside: from `look_inside`.
        query: which, e.g. the first of `inside.best_queries()`.
        truth: the true box of the object, xyxy in pixels of the original image, where it is known.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there is no such query.
        ImportError: matplotlib is missing.
    """
    if not 0 <= query < len(inside.start):
        raise ValueError(f"There is no query {query}: the detector has {len(inside.start)}, from 0 on.")
    label, start, boxes = inside.label(query), inside.start[query], inside.layer_boxes[:, query]
    scores, name = inside.layer_scores[:, query, label], inside.id2label[label]
    goal = boxes[-1] if truth is None else np.asarray(truth, dtype=np.float32)
    to = "the last box" if truth is None else "the true box"
    steps: list[tuple[str, str, np.ndarray]] = []
    anchor = inside.anchor(query)
    if inside.proposals is not None and anchor is not None:
        steps.append(("Token", "its anchor", anchor))
        steps.append(("Proposal", f"object {inside.proposals.scores[query]:.2f}", start))
    else:
        steps.append(("Learned point", "", start))
    steps += [(f"Decoder layer {i + 1}", f"{name} {scores[i]:.2f}", box) for i, box in enumerate(boxes)]
    seen = np.concatenate([goal.reshape(-1, 2), *(box.reshape(-1, 2) for _, _, box in steps)])
    window = window_around(seen, inside.image, margin=0.2)
    text = (
        "Solid: the box after a step; dashed: the one before, and in the whole image what the panels show. "
        f"Percentages: how much it overlaps {to} (IoU)."
    )
    if inside.proposals is not None:
        text += (
            "\nA token's anchor is a box of its level's size around its cell; the first stage makes the proposal of it."
        )
    if truth is not None:
        text += " Green: the true box."
    with own_style():
        panels = Panels(
            len(steps) + 2, f"How the box of query {query} is refined: {name} {scores[-1]:.2f}", text, foot=0.25
        )
        axes = panels.image(0, inside.image, whole(inside.image), "Image")
        draw_box(axes, boxes[-1], color_of(label))
        draw_box(axes, window, "white", 1.0, dashes=True)
        before = None
        for index, (title, note, box) in enumerate(steps):
            overlap = f", {_iou(box, goal):.0%}" if len(box) == 4 else ""
            axes = panels.image(index + 1, inside.image, window, title, note + overlap)
            if truth is not None:
                draw_box(axes, goal, "#35e07a", 1.6)
            if len(box) == 4:
                draw_box(axes, box, color_of(label), 2.4)
            else:
                axes.plot(*box, "+", color="white", markersize=16, markeredgewidth=2.5)
            if before is not None:
                draw_box(axes, before, "white", 1.0, dashes=True)
            before = box if len(box) == 4 else None
        overlaps = {title: _iou(box, goal) for title, _, box in steps if len(box) == 4}
        _curves(panels, len(steps) + 1, overlaps, scores, f"overlap with {to}", f"score of {name}")
        return panels.picture()


def _curves(panels: Panels, index: int, overlaps: dict[str, float], scores: np.ndarray, of: str, score: str) -> None:
    """The last panel: overlap (by the steps' names) and score over the steps; scores are the last steps'."""
    axes = panels.cells[index]
    steps = range(len(overlaps))
    axes.plot(steps, list(overlaps.values()), "o-", color="#1f7fd0", linewidth=2.2, markersize=6, label=of)
    axes.plot(steps[-len(scores) :], scores, "s-", color="#c8610c", linewidth=2.2, markersize=6, label=score)
    if len(overlaps) < 6:
        names = [title.replace("Decoder ", "").lower() for title in overlaps]
    else:
        names = [title.replace("Decoder layer ", "").replace("Proposal", "prop.").lower() for title in overlaps]
    axes.set_xticks(list(steps), names)
    axes.set(ylim=(0, 1.04), xlim=(-0.6, len(overlaps) - 0.6))
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.tick_params(axis="y", pad=-4)
    for text in axes.get_yticklabels():
        text.set(ha="left", va="bottom")
    axes.grid(axis="y", color="#808080", alpha=0.25)
    axes.spines[:].set_visible(False)
    for text in axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, loc="lower right").get_texts():
        text.set_parse_math(False)
    panels.title(index, "Step by step")


def _drawn(inside: Inside, queries: Sequence[int], width: int) -> Image.Image:
    """The last layer's boxes as `Detections.draw` draws them, on the image at this width, so that letters are sharp."""
    height = round(width * inside.image.height / inside.image.width)
    size = width, height
    scale = np.array(size * 2) / np.array(inside.image.size * 2)
    labels = [inside.label(query) for query in queries]
    scores = [float(inside.layer_scores[-1, query, label]) for query, label in zip(queries, labels, strict=True)]
    boxes = np.clip(inside.layer_boxes[-1, queries].reshape(-1, 4) * scale, 0, size * 2)
    detections = Detections(boxes, np.array(scores), np.array(labels, dtype=np.int64), inside.id2label, (height, width))
    return detections.draw(inside.image.resize(size, Image.Resampling.BICUBIC))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap))


__all__ = ["plot_proposals", "plot_refinement"]
