"""The report: how good a detector is, where it errs and which threshold to use, as one HTML page that needs no other.

Names of classes and files come from data sets, which anybody may have made: the template escapes them, and the page
forbids itself the network and any script but its own.
"""

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deformable_detr_refine.files import new_path, sha256_of
from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.messages import printable, without_controls

from ..evaluated_image import EvaluatedImage
from ..metrics.confusion import confusion_matrix
from ..metrics.curves import (
    RECALLS,
    THRESHOLDS,
    BestThreshold,
    best_threshold,
    f1_curve,
    precision_curve,
)
from ..metrics.error_kinds import KINDS, error_kinds
from ..metrics.matching import ON_CROWD, Matches, match
from .pictures import CROWD, RIGHT, WRONG, choose_images, picture
from .plots import Line, Style, line_plot
from .training_curves import training_plots

# The best F1 below which no threshold is worth advising: most boxes are wrong, or most objects missed, at any.
USEFUL_F1 = 0.1
# Curves shown at first, curves drawn at all (with the lowest AP), classes in the confusion matrix, confusions listed.
SHOWN, DRAWN, IN_MATRIX, CONFUSIONS = 8, 100, 15, 10


def write_report(
    images: Sequence[EvaluatedImage],
    metrics: Mapping[str, Any],
    names: Sequence[str],
    folder: Path,
    image_of: Callable[[EvaluatedImage], Image.Image] | None = None,
    title: str = "",
    history: Iterable[Mapping[str, Any]] | None = None,
    threshold: float | None = None,
    facts: Mapping[str, str] | None = None,
    left_out: Sequence[str] = (),
) -> Path:
    """Writes FOLDER/report.html.

    The same images in another order give the same bytes.

    Args:
        images: what was found and what is true, each image once.
        metrics: `coco_metrics(images, names)`.
        names: the name of every class label, in order.
        folder: made if absent.
        image_of: gives the upright image of an entry, for the worst and best ones; an OSError or ValueError of it is
            told on the page. Without it no picture is drawn.
        title: what was evaluated on what.
        history: the Trainer's `state.log_history`, for training curves.
        threshold: the score above which boxes count in errors, confusions and pictures; `useful_threshold` if None.
        facts: what is told of the evaluation beside its title (date, device, weights, ...), by name.
        left_out: a line for each image that was not evaluated, with the reason.

    Returns:
        The page's path.

    Raises:
        ImportError: jinja2, matplotlib or pycocotools is missing.
    """
    content = _content(images, metrics, names, image_of, title, list(history or ()), threshold)
    content["facts"] = {name: printable(value, 200) for name, value in (facts or {}).items()}
    content["left_out"] = [printable(line, 300) for line in left_out]
    page = _template().render(content)
    path = Path(folder) / "report.html"
    with new_path(path) as new:
        new.write_text(page, encoding="utf-8", newline="\n")
    return path


def origin(model: str | Path) -> dict[str, str]:
    """Which detector is evaluated, and when: its name, the digest of its weights where they are one file, the date."""
    weights = Path(model, "model.safetensors")
    return {
        "model": str(model),
        "weights_sha256": sha256_of(weights) if weights.is_file() else "",
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def page_facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What the page tells of an evaluation, from its `origin`, thresholds, device and dtype."""
    own = about.get("own_threshold")
    facts = {
        "Evaluated": about["date"].replace("T", " ").replace("+00:00", " UTC"),
        "Model": about["model"],
        "Weights (sha256)": about["weights_sha256"][:12],
        "Device": f"{about['device']}, {about['dtype']}",
        "Images": about.get("tiling", ""),
        "Threshold in its config": ""
        if own in (None, about["threshold"])
        else f"{own:g}, with which ddetr detect begins",
    }
    return {name: value for name, value in facts.items() if value}


def useful_threshold(images: Sequence[EvaluatedImage]) -> float:
    """The score threshold with the best F1 over all boxes at IoU 0.5; the default one where none is of use."""
    return _threshold(_best(match(list(images), (0.5,))))


def is_useful(images: Sequence[EvaluatedImage]) -> bool:
    """Whether any score threshold is worth advising: the best F1 is not next to nothing."""
    return _is_useful(_best(match(list(images), (0.5,))))


def _is_useful(best: BestThreshold) -> bool:
    return best.threshold is not None and best.f1 >= USEFUL_F1


def _best(matches: Matches) -> BestThreshold:
    judged = matches.truths[0] != ON_CROWD
    return best_threshold(matches.scores[judged], matches.truths[0][judged] >= 0, len(matches.true_labels))


def _threshold(best: BestThreshold) -> float:
    return best.threshold if best.threshold is not None and _is_useful(best) else THRESHOLD


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('The report needs jinja2: pip install "deformable-detr-refine[train]".') from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: type(value)(without_controls(value, "\n\t")) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return environment.get_template("report.html.j2")


def _content(
    images: Sequence[EvaluatedImage],
    metrics: Mapping[str, Any],
    names: Sequence[str],
    image_of: Callable[[EvaluatedImage], Image.Image] | None,
    title: str,
    history: list[Mapping[str, Any]],
    threshold: float | None,
) -> dict[str, Any]:
    """Everything the template shows."""
    images = sorted(images, key=lambda image: image.image_id)
    matches = match(images, (0.5, 0.75))
    shown_names = [printable(name) for name in names]
    overall = _best(matches)
    threshold = _threshold(overall) if threshold is None else threshold
    classes = _classes(matches, metrics, names, shown_names)
    return {
        "title": printable(title, 200) or "Evaluation of a detector",
        "version": version("deformable-detr-refine"),
        "metrics": metrics,
        "images": len(images),
        "objects": len(matches.true_labels),
        "boxes": int(np.count_nonzero(matches.scores > threshold)),
        "overall": overall,
        "useful": _is_useful(overall),
        "threshold": threshold,
        "classes": classes,
        "most_objects": max((row["objects"] for row in classes), default=0),
        "curves": _curves(matches, classes, overall),
        "shown": SHOWN,
        **_confusion(confusion_matrix(matches, names, threshold), shown_names),
        "kinds": KINDS,
        "errors": error_kinds(matches, names, threshold),
        "colors": {"right": RIGHT, "wrong": WRONG, "crowd": CROWD},
        "pictures": _pictures(images, matches, shown_names, threshold, image_of),
        "training": training_plots(history),
    }


def _classes(
    matches: Matches, metrics: Mapping[str, Any], names: Sequence[str], shown_names: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each class, lowest AP first, those without objects last."""
    rows = []
    for label, name in enumerate(names):
        of_class = (matches.labels == label) & (matches.truths[0] != ON_CROWD)
        objects = int(np.count_nonzero(matches.true_labels == label))
        best = best_threshold(matches.scores[of_class], matches.truths[0][of_class] >= 0, objects)
        ap = metrics["per_class"].get(name, {})
        rows.append({"label": label, "name": shown_names[label], "objects": objects, "best": best, "metrics": ap})
    rows.sort(key=lambda row: (row["objects"] == 0, row["metrics"].get("AP", -1), row["label"]))
    for place, row in enumerate(rows):
        row["style"] = Style.number(place)
    return rows


def _curves(matches: Matches, classes: Sequence[dict[str, Any]], overall: BestThreshold) -> dict[str, Any]:
    """Precision over recall at both IoUs and F1 over the threshold, of classes with objects and of all together."""
    drawn = [row for row in classes if row["objects"]][:DRAWN]
    plots = []
    for i, iou in enumerate((0.5, 0.75)):
        curves = {}
        for row in classes:
            if row["objects"]:
                correct = matches.truths[i][(matches.labels == row["label"]) & (matches.truths[i] != ON_CROWD)] >= 0
                curves[row["label"]] = precision_curve(correct, row["objects"])
        lines = [Line(str(row["label"]), RECALLS, curves[row["label"]], row["style"]) for row in reversed(drawn)]
        if curves:
            lines.append(Line("all", RECALLS, np.mean(list(curves.values()), axis=0), Style()))
        text = f"Precision over recall at IoU {iou}"
        plots.append((text, line_plot(lines, "recall", "precision", text, unit_x=True, unit_y=True)))

    judged = matches.truths[0] != ON_CROWD
    scores, labels, correct = matches.scores[judged], matches.labels[judged], matches.truths[0][judged] >= 0
    lines = []
    for row in reversed(drawn):
        own = labels == row["label"]
        curve = f1_curve(scores[own], correct[own], row["objects"])
        lines.append(Line(str(row["label"]), THRESHOLDS, curve, row["style"], _mark(row["best"])))
    lines.append(Line("all", THRESHOLDS, f1_curve(scores, correct, len(matches.true_labels)), Style(), _mark(overall)))
    text = "F1 over score threshold at IoU 0.5"
    plots.append((text, line_plot(lines, "score threshold", "F1", text, unit_x=True, unit_y=True)))
    return {"plots": plots, "drawn": drawn, "left_out": sum(row["objects"] > 0 for row in classes) - len(drawn)}


def _mark(best: BestThreshold) -> tuple[float, float] | None:
    return None if best.threshold is None else (best.threshold, best.f1)


def _confusion(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The matrix of the classes with the most errors, the others added up, and the most frequent confusions."""
    K = len(names)
    errors = matrix - np.diag(np.diag(matrix))
    pairs = [(int(i), int(j)) for i, j in np.argwhere(errors[:K, :K])]
    pairs = sorted(pairs, key=lambda pair: (-errors[pair], pair))[:CONFUSIONS]
    confusions = [(names[i], names[j], int(errors[i, j]), int(matrix[i].sum())) for i, j in pairs]
    headings = [*names, "background"]
    if K > IN_MATRIX:
        by_errors = np.argsort(-(errors.sum(0) + errors.sum(1))[:K], kind="stable")
        order, others = by_errors[: IN_MATRIX - 1], by_errors[IN_MATRIX - 1 :]
        # (groups, K + 1): which classes each row and column adds up.
        groups = np.zeros((IN_MATRIX + 1, K + 1), dtype=np.int64)
        groups[np.arange(len(order)), order] = groups[IN_MATRIX - 1, others] = groups[IN_MATRIX, K] = 1
        matrix = groups @ matrix @ groups.T
        headings = [*(names[i] for i in order), f"{len(others)} other classes", "background"]
    rows = [
        (heading, [(int(count), float(count) / max(int(row.sum()), 1)) for count in row])
        for heading, row in zip(headings, matrix, strict=True)
    ]
    return {"headings": headings, "matrix": rows, "confusions": confusions, "folded": K > IN_MATRIX}


def _pictures(
    images: Sequence[EvaluatedImage],
    matches: Matches,
    names: Sequence[str],
    threshold: float,
    image_of: Callable[[EvaluatedImage], Image.Image] | None,
) -> list[tuple[str, list[Any]]]:
    chosen = zip(("Worst", "Best"), choose_images(matches, len(images), threshold), strict=True)
    return [
        (heading, [picture(images[i], match([images[i]]), names, threshold, image_of) for i in numbers])
        for heading, numbers in chosen
        if numbers
    ]


def _number(value: float | None, digits: int = 3) -> str:
    """COCO's -1 and nan mean that there is nothing to judge."""
    if value is None or not math.isfinite(value) or value < 0:
        return "\N{EN DASH}"
    return f"{value:.{digits}f}"


__all__ = ["is_useful", "origin", "page_facts", "useful_threshold", "write_report"]
