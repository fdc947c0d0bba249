"""The data set on which an export's AP is compared with the model's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deformable_detr_refine.data.defects import command_line_words
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.evaluation.class_names import RelabelledData


def data_rows(names: Sequence[str], data: str, split: str, limit: int) -> Sequence[Any]:
    """The first `limit` rows of a split, with the labels of a model that has these class names.

    Raises:
        FileNotFoundError: there is no such data set.
        DataError: it cannot be used, or has objects of other classes.
    """
    with command_line_words():
        loaded = load_detection_data(data, split=split, defects="skip")
    ((_, dataset),) = loaded.splits.items()
    return RelabelledData(dataset.select(range(min(limit, len(dataset)))), loaded.label_map.names, names)


def matching_samples(names: Sequence[str], annotations: Path) -> Sequence[Any] | None:
    """The first of the COCO files in a folder whose classes are all among these names; None when there is none."""
    for file in sorted(annotations.glob("*.json")):
        loaded = load_detection_data(file)
        if set(loaded.label_map.names) <= set(names):
            (dataset,) = loaded.splits.values()
            return RelabelledData(dataset, loaded.label_map.names, names)
    return None


__all__ = ["data_rows", "matching_samples"]
