"""Opens a data set of any known form, found by looking."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from deformable_detr_refine.hub_names import is_hub_name
from deformable_detr_refine.messages import described, near

from ..defects import DataError, first_of, refuse_losses
from ..detection_data import DetectionData, import_datasets
from ..label_map import LabelMap, merge
from . import azure_jsonl, coco, hub, voc, yolo
from .foreign import foreign_form
from .image_files import inside
from .split_columns import SplitColumns
from .split_names import standard_split

if TYPE_CHECKING:
    import datasets

# The order decides for a folder that looks like several.
FORMATS: dict[str, ModuleType] = {"azure": azure_jsonl, "yolo": yolo, "voc": voc, "coco": coco, "datasets": hub}
_FOLDERS_DOWN = 3


def load_detection_data(
    source: "str | os.PathLike | datasets.Dataset | datasets.DatasetDict",
    split: str | None = None,
    label_map: LabelMap | None = None,
    defects: Literal["error", "skip"] = "error",
) -> DetectionData:
    """Opens a detection data set; its form is found by looking.

    Args:
        source: a folder or file of COCO JSON, Pascal VOC, YOLO, or Azure's MLTable with JSONL; a folder that
            `datasets` saved, or of parquet files; `hub:OWNER/NAME` for a data set of the Hub (OWNER/NAME alone does
            when there is no such path); or a `datasets` object.
        split: only this one (`val` finds validation); without it all.
        label_map: the classes to use, as those of a trained model; objects of other classes are a defect. Without it
            the classes of all splits of the data are taken together.
        defects: "error" raises when an object or an image would be lost; "skip" leaves those out, clips boxes that
            stand over the edge of their image, and notes all of it in the result's `defects`.

    Returns:
        The data in the canonical form; boxes x, y, width, height in pixels of the upright original image.

    Raises:
        FileNotFoundError: there is nothing at this path.
        DataError: its form is not known, or it has defects; the message says where and what to do.
    """
    if defects not in ("error", "skip"):
        raise ValueError(f'defects is {defects!r}, expected "error" or "skip".')
    import_datasets()
    name, form, read_split, splits = _find(source)
    chosen = list(splits) if split is None else [_choose(split, splits, name)]
    # The classes of all splits count, so all are read, unless the classes are known.
    columns = {key: read_split(key) for key in (chosen if label_map else splits)}
    label_map = label_map or _classes(columns, name)
    _resolve_forms(columns)
    return _finish({key: columns[key] for key in chosen}, label_map, name, form, defects)


def check_source(source: str | os.PathLike) -> None:
    """Check, before any work, that a data set may be there: a path is, and a name of the Hub has its form.

    Raises:
        FileNotFoundError: there is nothing at this path.
    """
    path, name = Path(source).expanduser(), str(source)
    if not (path.is_file() or path.is_dir() or name.startswith(hub.HUB) or is_hub_name(name.partition("@")[0])):
        raise FileNotFoundError(f"There is no data set {path}{near(path)}")


def _classes(columns: Mapping[str, SplitColumns], source: str) -> LabelMap:
    """One label map for all splits; where no class is named, it says what became of the objects."""
    declared = {key: part.declared for key, part in columns.items()}
    used = {name for part in columns.values() for name in part.used_names}
    if not used and not any(declared.values()):
        defects = [defect for part in columns.values() for defect in part.defects]
        keys = [key for part in columns.values() for key in part.used_keys]
        why = "no object can be read" if defects else "it holds no object, and names no class"
        why = f"the categories are {described(keys)}, neither whole numbers nor names" if keys else why
        raise DataError(f"{source}: there is no class name: {why}.{first_of(defects)}")
    try:
        return merge(declared, used)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _resolve_forms(columns: Mapping[str, SplitColumns]) -> None:
    """Splits with too few boxes to tell their form follow one that is sure."""
    forms = {key: part.find_form() for key, part in columns.items()}
    sure = {form for key, form in forms.items() if form not in ("either", columns[key].form)}
    for key, part in columns.items():
        part.take_form(next(iter(sure)) if forms[key] == "either" and len(sure) == 1 else forms[key])


def _finish(
    columns: Mapping[str, SplitColumns], label_map: LabelMap, source: str, form: str, defects: str
) -> DetectionData:
    datasets = import_datasets()
    parts: dict[Any, Any] = {key: part.to_dataset(label_map, skip=defects == "skip") for key, part in columns.items()}
    noted = tuple(dict.fromkeys(defect for part in columns.values() for defect in part.defects))
    if defects == "error":
        refuse_losses(noted, source)
    if not any(len(part) for part in parts.values()):
        raise DataError(f"{source}: no image of {', '.join(parts)} can be used.{first_of(noted)}")
    splits = cast("dict[str, datasets.Dataset]", datasets.DatasetDict(parts))
    return DetectionData(splits, label_map, source, form, noted)


def _find(source: Any) -> tuple[str, str, Callable[[str], SplitColumns], dict[str, Any]]:
    """Name, form, reader of a split, and the splits of a source."""
    if not isinstance(source, str | os.PathLike):
        splits = hub.from_datasets(source)
        return "the data set", "datasets", lambda key: hub.read(key, splits[key], None, "the data set"), splits
    path = Path(source).expanduser()
    check_source(source)
    if not path.exists() or str(source).startswith(hub.HUB):
        splits = hub.open_hub(str(source))
        return str(source), "datasets", lambda key: hub.read(key, splits[key], None, str(source)), splits
    folder = path
    for _ in range(_FOLDERS_DOWN):
        for form, module in FORMATS.items():
            if splits := module.find(folder):
                root = Path(os.path.abspath(folder if folder.is_dir() else _root_of(folder)))
                return str(path), form, partial(_read, module, splits, root), splits
        items = [item for item in folder.iterdir() if not item.name.startswith((".", "__"))] if folder.is_dir() else []
        folders = [item for item in items if item.is_dir()]
        if len(folders) != 1:  # an archive often holds one folder with all in it
            break
        folder = inside(path, folders[0])
    if what := foreign_form(path) or foreign_form(folder):
        raise DataError(what)
    raise DataError(
        f"{path} is no data set of a known form. Known are COCO JSON (annotations/*.json), Pascal VOC "
        "(Annotations/*.xml), YOLO (data.yaml), Azure's MLTable with JSONL, and folders of `datasets` or parquet."
    )


def _read(module: ModuleType, splits: Mapping[str, Any], root: Path, split: str) -> SplitColumns:
    return module.read(split, splits[split], root)


def _root_of(file: Path) -> Path:
    """The data folder that a single file of annotations belongs to."""
    folder = file.absolute().parent
    return folder.parent if folder.name.lower() == "annotations" else folder


def _choose(split: str, splits: Mapping[str, Any], source: str) -> str:
    for name in (split, standard_split(split)):
        if name and name in splits:
            return name
    if len(splits) == 1:
        (only,) = splits
        raise DataError(f'{source} has no split {split!r}; it has only {only}: split="{only}" takes all of it.')
    raise DataError(f"{source} has no split {split!r}, but {', '.join(splits)}.")


__all__ = ["check_source", "load_detection_data"]
