"""Columns of images and of boxes -> a `datasets.Dataset` in the canonical form."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deformable_detr_refine.modeling.image_io import as_text

from ..detection_data import features, import_datasets
from .values import is_whole

if TYPE_CHECKING:
    import datasets


def canonical_dataset(
    split: str,
    class_names: Sequence[str],
    image_ids: Sequence[Any],
    rows: Mapping[str, Any],
    objects: Mapping[str, np.ndarray],
    counts: np.ndarray,
    images: "Sequence[str | None] | datasets.Dataset",
    lost: np.ndarray,
) -> "datasets.Dataset":
    """One split, without the lost images.

    Args:
        split: its name.
        class_names: of labels 0, 1, 2, ...
        image_ids: the data set's own, None where it has none.
        rows: file_name, width and height of each image.
        objects: id, bbox (xywh in pixels), category, area and iscrowd of each box, in the images' order.
        counts: how many boxes each image has.
        images: their paths, or a data set with the one column `image`.
        lost: whether an image is left out.
    """
    import pyarrow as pa

    datasets = import_datasets()
    numbers, texts = _image_ids(image_ids, lost)
    columns = features(list(class_names), source_ids=texts is not None)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    kinds = {"id": pa.int64(), "category": pa.int64(), "area": pa.float32(), "iscrowd": pa.int8()}
    flat = {key: pa.array(objects[key], kind) for key, kind in kinds.items()}
    flat["bbox"] = pa.FixedSizeListArray.from_arrays(pa.array(objects["bbox"].ravel(), pa.float32()), 4)
    arrays = {
        "image_id": pa.array(numbers, pa.int64()),
        "file_name": pa.array(rows["file_name"], pa.string()),
        "width": pa.array(rows["width"], pa.int32()),
        "height": pa.array(rows["height"], pa.int32()),
        "objects": pa.StructArray.from_arrays(
            [pa.ListArray.from_arrays(offsets, flat[key]) for key in objects], names=list(objects)
        ),
    }
    if texts is not None:
        arrays["source_id"] = pa.array(texts, pa.string())
    of_paths = not isinstance(images, datasets.Dataset)
    if of_paths:
        paths = pa.array([path or "" for path in images], pa.string())
        arrays["image"] = pa.StructArray.from_arrays(
            [pa.nulls(len(paths), pa.binary()), paths], names=["bytes", "path"]
        )
    own = datasets.Features({name: feature for name, feature in columns.items() if name in arrays})
    table = pa.table({name: arrays[name] for name in own}).cast(own.arrow_schema)
    dataset = datasets.Dataset(table, info=datasets.DatasetInfo(features=own), split=datasets.NamedSplit(split))
    if not of_paths:
        dataset = datasets.concatenate_datasets([dataset, images], axis=1).select_columns(list(columns))
    return dataset.select(np.flatnonzero(~lost)) if lost.any() else dataset


def _image_ids(ids: Sequence[Any], lost: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """A number of each image, and the data set's own ids where they are none.

    The numbers are the data set's own when all are whole and each is there once; else 0, 1, 2, ... over the images that
    are left.
    """
    kept = [image_id for image_id, gone in zip(ids, lost, strict=True) if not gone]
    distinct = len(set(map(str, kept))) == len(kept)
    if distinct and all(is_whole(image_id) for image_id in kept):
        numbers = np.array([0 if gone else image_id for image_id, gone in zip(ids, lost, strict=True)], np.int64)
        return numbers, None
    texts = [as_text(str(image_id)) for image_id in ids] if distinct and None not in kept else None
    return np.where(lost, 0, np.cumsum(~lost) - 1), texts


__all__ = ["canonical_dataset"]
