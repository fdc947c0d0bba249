"""The images on which a detector did worst and best, drawn with truth and detections side by side."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deformable_detr_refine.inference.drawing import Color, draw_boxes
from deformable_detr_refine.messages import counted, printable

from ..evaluated_image import EvaluatedImage
from ..metrics.error_kinds import KINDS, box_kinds
from ..metrics.matching import NONE, ON_CROWD, Matches, judged

WORST, BEST = 6, 4
# Pixels of a picture's longer side; small images are enlarged up to four times, so that the chips can be read.
SIDE, MOST_ENLARGED = 560, 4
_KIND_NAMES = list(KINDS)
# Of Okabe and Ito's palette, which stays distinct for the colour-blind; the page's legend names them.
RIGHT, WRONG, CROWD = (86, 180, 233), (213, 94, 0), (200, 200, 200)


@dataclass(frozen=True)
class Picture:
    """One image for the page; `truth` and `found` are data URIs of JPEGs, or None if the image could not be read."""

    file_name: str
    f1: float
    caption: str
    truth: str | None
    found: str | None


def choose_images(matches: Matches, count: int, threshold: float) -> tuple[list[int], list[int]]:
    """The worst and the best of `count` images, by F1 of the boxes above the threshold.

    Worst are those with the lowest F1 below 1, at one F1 those with more errors; best the ones with the highest F1
    above 0, at one F1 those with more objects. Images without boxes and objects are left out.

    Returns:
        Numbers as in `matches.images`, at most `WORST` and `BEST`, none twice.
    """
    kept = (matches.scores > threshold) & (matches.truths[0] != ON_CROWD)
    right = np.bincount(matches.images[kept & (matches.truths[0] >= 0)], minlength=count)
    boxes = np.bincount(matches.images[kept], minlength=count)
    objects = np.bincount(matches.true_images, minlength=count)
    f1 = 2 * right / np.maximum(boxes + objects, 1)
    numbers = np.flatnonzero(boxes + objects)
    worst = sorted(numbers[f1[numbers] < 1], key=lambda i: (f1[i], 2 * right[i] - boxes[i] - objects[i], i))[:WORST]
    best = sorted(numbers[f1[numbers] > 0], key=lambda i: (-f1[i], -objects[i], i))
    return [int(i) for i in worst], [int(i) for i in best if i not in worst][:BEST]


def picture(
    image: EvaluatedImage,
    matches: Matches,
    names: Sequence[str],
    threshold: float,
    image_of: Callable[[EvaluatedImage], Image.Image] | None,
) -> Picture:
    """Draws one image twice: what is true, and the boxes above the threshold, each with what is wrong about it.

    Args:
        matches: of this image alone.
        names: of the class labels, fit to be shown.
        image_of: gives the upright RGB image.
    """
    kept = matches.scores > threshold
    truths, kinds = matches.truths[0][kept], box_kinds(matches)[kept]
    is_found = np.isin(np.arange(len(matches.true_labels)), truths)
    f1 = 2 * is_found.sum() / max((truths != ON_CROWD).sum() + len(is_found), 1)
    wrong = Counter(_KIND_NAMES[kind] for kind in kinds[kinds != NONE])
    count = wrong.total()
    caption = f"{is_found.sum()} of {len(is_found)} objects found, {counted(count, 'wrong box', 'wrong boxes')}"
    if wrong:
        caption += f" ({', '.join(f'{count} {kind}' for kind, count in wrong.most_common())})"
    truth = found = None
    try:
        pixels = image_of(image) if image_of else None
    except (OSError, ValueError) as error:
        pixels, caption = None, f"{caption}. The image could not be read: {printable(str(error), 300)}"
    if pixels is not None:
        truth = _draw_truth(pixels, image, names, is_found)
        found = _draw_found(pixels, image, matches, kept, names)
    return Picture(printable(image.file_name), float(f1), caption, truth, found)


def _draw_truth(pixels: Image.Image, image: EvaluatedImage, names: Sequence[str], is_found: np.ndarray) -> str:
    crowd = image.true_crowd
    boxes = np.concatenate([image.true_boxes[~crowd], image.true_boxes[crowd]])
    labels = np.concatenate([image.true_labels[~crowd], image.true_labels[crowd]])
    remarks = np.concatenate([np.where(is_found, "", " not found"), np.full(crowd.sum(), " crowd")])
    texts = [names[label] + remark for label, remark in zip(labels, remarks, strict=True)]
    colors = [{"": RIGHT, " crowd": CROWD}.get(remark, WRONG) for remark in remarks]
    return _draw(pixels, image.size, boxes, labels, texts, (remarks == " not found").astype(float), colors)


def _draw_found(
    pixels: Image.Image, image: EvaluatedImage, matches: Matches, kept: np.ndarray, names: Sequence[str]
) -> str:
    boxes = image.boxes[judged(image)][kept]
    labels, scores, kinds = matches.labels[kept], matches.scores[kept], box_kinds(matches)[kept]
    remarks = ["" if kind == NONE else f" {_KIND_NAMES[kind]}" for kind in kinds]
    rows = zip(labels, scores, remarks, strict=True)
    texts = [f"{names[label]} {score:.2f}{remark}" for label, score, remark in rows]
    colors = [RIGHT if kind == NONE else WRONG for kind in kinds]
    return _draw(pixels, image.size, boxes, labels, texts, scores + (kinds != NONE), colors)


def _draw(
    pixels: Image.Image,
    size: tuple[int, int],
    boxes: np.ndarray,
    labels: np.ndarray,
    texts: Sequence[str],
    ranks: np.ndarray,
    colors: Sequence[Color],
) -> str:
    """A JPEG of bounded size as a data URI; chips with a higher rank choose their place first."""
    scale = min(SIDE / max(pixels.size), MOST_ENLARGED)
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    small = pixels.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    boxes = boxes * np.array([width / size[1], height / size[0]] * 2)
    file = io.BytesIO()
    draw_boxes(small, boxes, labels, texts, ranks, colors).save(file, format="JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


__all__ = ["BEST", "WORST", "Picture", "choose_images", "picture"]
