"""What an evaluation writes beside its report: metrics.json, per_class.csv, detections.json."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deformable_detr_refine.files import new_path
from deformable_detr_refine.inference.detections import short_floats
from deformable_detr_refine.modeling.image_io import as_text

from ..evaluated_image import EvaluatedImage, corners_to_xywh

PER_CLASS_COLUMNS = ("AP", "AP50", "AP75", "AR100", "precision", "recall")


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes the metrics as JSON, each list of plain numbers on one line."""
    with new_path(path) as new:
        new.write_text(as_text(_json(metrics)) + "\n", encoding="utf-8")


def write_per_class(
    path: Path,
    per_class: Mapping[str, Mapping[str, Any]],
    by_azure: Mapping[str, Mapping[str, float]],
    category_ids: Sequence[int | str | None],
) -> None:
    """Writes a row for each class; what is undefined is left empty.

    Args:
        path: the new file.
        per_class: COCO's metrics by name.
        by_azure: Azure's `per_label_metrics`; precision and recall are those of detections above its threshold.
        category_ids: of each class, the data set's id, or None if it has no such class.
    """
    with new_path(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("class", "category_id", "objects", *PER_CLASS_COLUMNS))
        for (name, row), category_id in zip(per_class.items(), category_ids, strict=True):
            values = {**row, **by_azure[name]}
            numbers = ("" if values[key] == -1 else f"{values[key]:.6f}" for key in PER_CLASS_COLUMNS)
            table.writerow((name, "" if category_id is None else category_id, row["objects"], *numbers))


def write_detections(path: Path, images: Iterable[EvaluatedImage], category_ids: Sequence[int | str | None]) -> int:
    """Writes all detections in the form that COCO's tools and servers take, one image per line.

    Args:
        path: the new file.
        images: in the order in which they shall stand.
        category_ids: of each label, the data set's id, or None if it has no such class: detections of it are left out.

    Returns:
        How many detections were written.
    """
    count = 0
    with new_path(path) as new, new.open("w", encoding="utf-8") as file:
        file.write("[")
        for image in images:
            results = list(coco_results(image, category_ids))
            if results:
                file.write(",\n" if count else "\n")
                file.write(",".join(json.dumps(result, ensure_ascii=False) for result in results))
            count += len(results)
        file.write("\n]\n")
    return count


def coco_results(image: EvaluatedImage, category_ids: Sequence[int | str | None]) -> Iterator[dict[str, Any]]:
    """One image's detections in COCO's form; `bbox` is x, y, width, height in pixels of the original image.

    Example:
        >>> image = EvaluatedImage(7, "a.jpg", (32, 64), [[8, 4, 40, 20]], [0.75], [1], [], [])
        >>> list(coco_results(image, [1, 3]))
        [{'image_id': 7, 'category_id': 3, 'bbox': [8.0, 4.0, 32.0, 16.0], 'score': 0.75}]
    """
    boxes = corners_to_xywh(image.boxes).astype("float32")
    for box, score, label in zip(boxes, image.scores, image.labels.tolist(), strict=True):
        if category_ids[label] is not None:
            result = {"image_id": image.own_id, "category_id": category_ids[label]}
            yield {**result, "bbox": short_floats(box), "score": short_floats(score)}


def _json(value: Any, indent: str = "") -> str:
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        rows = (f"{deeper}{json.dumps(str(key), ensure_ascii=False)}: {_json(v, deeper)}" for key, v in value.items())
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value):
        return "[\n" + ",\n".join(deeper + _json(item, deeper) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


__all__ = ["PER_CLASS_COLUMNS", "coco_results", "write_detections", "write_metrics", "write_per_class"]
