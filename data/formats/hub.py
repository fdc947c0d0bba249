"""Data sets of the `datasets` library: objects, saved folders, parquet files, the Hub's."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deformable_detr_refine.hub_names import hub_has_an_address
from deformable_detr_refine.messages import described, printable
from deformable_detr_refine.modeling.image_io import file_of, image_size, is_url

from ..defects import ABSENT_IMAGE, OUTSIDE_FOLDER, UNREADABLE_IMAGE, DataError
from ..detection_data import DetectionData, import_datasets
from ..label_map import LabelMap, read_label_map, write_label_map
from .image_files import files_in, inside, leads_out_of, link_text
from .new_images import new_data_folder, rows_of
from .split_columns import SplitColumns
from .split_names import by_split, standard_split
from .values import id_of, is_whole, to_box

if TYPE_CHECKING:
    import datasets

HUB = "hub:"
LABEL_MAP = "label_map.json"
_OBJECTS = ("objects", "annotations", "object")
_BOXES = ("bbox", "bboxes", "boxes", "box")
_CATEGORIES = ("category", "category_id", "categories", "label", "labels", "class", "classes", "class_id")
_OPTIONAL = (("area", "areas"), ("iscrowd", "is_crowd"), ("id", "ids", "bbox_id"))
_FIELDS = (_BOXES, _CATEGORIES, *_OPTIONAL)
_FILE_NAMES = ("file_name", "filename", "image_path", "path")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_TABLES = (".arrow", ".csv", ".json", ".jsonl", ".parquet")


def open_hub(source: str) -> "dict[str, datasets.Dataset]":
    """The splits of a data set of the Hub, `OWNER/NAME` or `OWNER/NAME@REVISION`.

    Raises:
        DataError: it cannot be opened.
    """
    datasets = import_datasets()
    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        # Scripts and pickles of a repository are refused by `datasets` itself.
        with _asked_only_where_it_can_be():
            return from_datasets(datasets.load_dataset(name, revision=revision or None))
    except DataError:
        raise
    except ConnectionError as error:
        raise DataError(
            f"There is no path {source}; as a data set of the Hub it is not in the cache here, and the Hub cannot be "
            "reached: check the name, or the network."
        ) from error
    except Exception as error:  # it raises its own, huggingface_hub's and the network's
        reason = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, 300)
        raise DataError(
            f"There is no path {source}, and as a data set of the Hub it does not open: {reason}"
        ) from error


@contextmanager
def _asked_only_where_it_can_be() -> Iterator[None]:
    """Without a network only the cache of `datasets` is looked into."""
    from datasets import config

    offline = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = offline or not hub_has_an_address()
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = offline


def from_datasets(given: Any) -> "dict[str, datasets.Dataset]":
    """The splits of a `datasets` object."""
    datasets = import_datasets()
    if isinstance(given, datasets.Dataset):
        return by_split([(str(given.split or "train"), given)])
    if isinstance(given, Mapping) and all(isinstance(part, datasets.Dataset) for part in given.values()):
        return by_split((str(name), part) for name, part in given.items())
    raise DataError(f"A data set is a path, hub:OWNER/NAME, a Dataset or a DatasetDict, not {type(given).__name__}.")


def find(source: Path) -> "dict[str, datasets.Dataset]":
    """The splits of a folder that `datasets` saved, of parquet files, or of images with metadata; else none."""
    datasets = import_datasets()
    try:
        if source.is_file():
            files = [source] if source.suffix == ".parquet" else []
        else:
            if (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
                _refuse_links(source)
                return from_datasets(datasets.load_from_disk(str(source)))
            if any((folder / name).is_file() for name in _METADATA for folder in (source, *_split_folders(source))):
                _refuse_links(source)
                return from_datasets(datasets.load_dataset("imagefolder", data_dir=str(source)))
            files = [file for folder in (source, source / "data") for file in files_in(folder, "*.parquet")]
            files = [inside(source, file) for file in files or files_in(source, "*/*.parquet")]
        if not files:
            return {}
        names = dict.fromkeys(_parquet_split(file, source) for file in files)
        by_name = {name: [str(file) for file in files if _parquet_split(file, source) == name] for name in names}
        return from_datasets(datasets.load_dataset("parquet", data_files=by_name))
    except DataError:
        raise
    except Exception as error:  # damaged files: pyarrow's and its own many kinds
        raise DataError(f"{source} does not open as a data set of `datasets`: {printable(str(error), 300)}") from error


def read(split: str, dataset: "datasets.Dataset", root: Path | None, source: str = "") -> SplitColumns:
    """Reads a data set with an image column and `objects` of boxes and categories, the Hub's usual form.

    Args:
        split: its name.
        dataset: it.
        root: the folder it was read from, outside which no image is opened; None for objects and the Hub, whose images
            may be anywhere.
        source: its name in messages.

    Raises:
        DataError: it has another form.
    """
    datasets = import_datasets()
    image_column = _column(dataset, ("image", "images", "img"), "image", source)
    objects = _column(dataset, _OBJECTS, "objects", source)
    where = f"{source or root}/{split}"
    columns = SplitColumns(split, where)
    images = dataset.with_format(None).select_columns([image_column])
    images = images.rename_column(image_column, "image") if image_column != "image" else images
    images = images.cast_column("image", datasets.Image(decode=False))
    columns.images = images
    _add_images(columns, dataset.with_format(None), images, where, root)
    _add_objects(columns, dataset.with_format(None).select_columns([objects]))
    _name_categories(columns, dataset.features[objects], root)
    return columns


def write_datasets(data: DetectionData, folder: str | Path) -> None:
    """Saves the splits as `datasets` does, images included, with label_map.json for the category ids; nothing is lost.

    Args:
        data: a data set.
        folder: a new or empty folder.

    Raises:
        DataError: there is something in the folder.
    """
    with new_data_folder(folder) as new:
        import_datasets().DatasetDict({name: _findable(part) for name, part in data.splits.items()}).save_to_disk(
            str(new)
        )
        write_label_map(data.label_map, new / LABEL_MAP)


def _findable(dataset: "datasets.Dataset") -> "datasets.Dataset":
    """The same with the bytes of those images that `datasets` would not find, for their names are no UTF-8."""

    def embed(row: dict[str, Any]) -> dict[str, Any]:
        image = row["image"]
        hidden = image["bytes"] is None and file_of(image["path"]) != Path(image["path"])
        return {"image": {**image, "bytes": file_of(image["path"]).read_bytes()} if hidden else image}

    paths = (row["image"]["path"] for row in rows_of(dataset.select_columns("image")))
    escaped = any("%" in path and file_of(path) != Path(path) for path in paths if path)
    return dataset.map(embed, features=dataset.features) if escaped else dataset


def _add_images(
    columns: SplitColumns, dataset: "datasets.Dataset", images: "datasets.Dataset", where: str, root: Path | None
) -> None:
    """Adds the images, those too that cannot be used."""

    def stated(names: tuple[str, ...]) -> list:
        name = next((name for name in names if name in dataset.column_names), None)
        return [None] * len(dataset) if name is None else dataset[name][:]

    fields = (("width",), ("height",), ("image_id",), ("source_id",), _FILE_NAMES)
    rows = zip(*map(stated, fields), strict=True)
    for row, ((width, height, number, source_id, name), (path, data)) in enumerate(
        zip(rows, _images(images), strict=True)
    ):
        name = str(name or os.path.basename(path or "") or f"{row:06d}")
        problem = None if data.is_valid else _path_problem(path, root)
        if problem is None and not (is_whole(width) and is_whole(height) and width > 0 and height > 0):
            try:
                if not data.is_valid and is_url(path):
                    raise DataError("the row states no width and height, and images behind URLs are not fetched.")
                width, height = image_size(data.as_py() if data.is_valid else path or "")
            except (OSError, ValueError) as error:
                problem = UNREADABLE_IMAGE, printable(str(error).rstrip("."), 300)
        if problem is not None:
            columns.add_defect(problem[0], row, problem[1], file=where, image=name, loses="image")
            width = height = 0
        image_id = id_of(number) if source_id is None else source_id
        columns.add_image(name, None if problem else path or name, width, height, where, image_id)


def _images(images: Any) -> "Iterator[tuple[str | None, Any]]":
    """Path and bytes (an arrow scalar, so that they stay where they are) of each image."""
    for batch in images.with_format("arrow").iter(batch_size=100):
        for chunk in batch["image"].chunks:
            fields = dict(zip(chunk.type.names, chunk.flatten(), strict=True))
            yield from zip(fields["path"].to_pylist(), fields["bytes"], strict=True)


def _path_problem(path: str | None, root: Path | None) -> tuple[str, str] | None:
    """Kind of defect and text, when the image of this path may not or cannot be opened."""
    if not path:
        return UNREADABLE_IMAGE, "the row has no image"
    if is_url(path):
        return None
    if root is not None and not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        text = (
            f"the image {printable(path)} lies outside the folder {root}; if that is meant, open it with "
            "the datasets library and give the object"
        )
        return OUTSIDE_FOLDER, text
    if root is not None and os.path.exists(path) and leads_out_of(root, path):
        return OUTSIDE_FOLDER, link_text(f"the image {printable(path)}")
    return None if os.path.isfile(path) else (ABSENT_IMAGE, f"there is no image file {printable(path)}")


def _add_objects(columns: SplitColumns, dataset: "datasets.Dataset") -> None:
    """Adds the boxes in the form that they have; rows whose lists do not go together lose their image."""
    for row, item in enumerate(next(iter(content.values())) for content in rows_of(dataset)):
        try:
            objects = _objects(item)
        except ValueError as error:
            columns.lose_image(row, row, str(error))
            continue
        for box, category, area, crowd, box_id in objects:
            try:
                columns.add_box(row, to_box(box), id_of(category), row, area, crowd, id_of(box_id))
            except ValueError as error:
                columns.add_unreadable(row, row, f"bbox: {error}")


def _objects(item: Any) -> list[tuple]:
    """(bbox, category, area, crowd, id) of each object of a row.

    Raises:
        ValueError: the row has no such lists, or lists of unlike lengths.
    """
    if item is None:
        return []
    if isinstance(item, list) and all(isinstance(entry, Mapping) for entry in item):  # a list of dicts
        keys = dict.fromkeys(key for entry in item for key in entry)
        item = {key: [entry.get(key) for entry in item] for key in keys}
    if not isinstance(item, Mapping):
        kind = "JSON text; parse it" if isinstance(item, str) else described(item)
        raise ValueError(f"the objects are {kind}, where a dict of lists is expected: bbox, category")
    fields = [next((item[name] for name in names if item.get(name) is not None), None) for names in _FIELDS]
    count = len(fields[0]) if isinstance(fields[0], list) else 0
    for names, values in zip(_FIELDS, fields, strict=True):
        if values is None and (names in _OPTIONAL or not count):
            continue
        if not isinstance(values, list):
            raise ValueError(f"{names[0]} is {described(values)}, where a list is expected, an entry for each box")
        if len(values) != count:
            raise ValueError(f"{count} boxes do not go with {len(values)} entries of {names[0]}")
    return list(zip(*([None] * count if values is None else values for values in fields), strict=True))


def _name_categories(columns: SplitColumns, feature: Any, root: Path | None) -> None:
    """Gives the categories their names: those of a ClassLabel, their own, or their number."""
    datasets = import_datasets()
    fields = getattr(feature, "feature", feature)  # a list of dicts, or a dict of lists
    fields = fields if isinstance(fields, Mapping) else {}
    category = next((fields[name] for name in _CATEGORIES if name in fields), None)
    category = getattr(category, "feature", category)
    if isinstance(category, datasets.ClassLabel):
        columns.category_names = dict(enumerate(category.names))
        columns.declared = LabelMap(tuple(category.names))
        if root is not None and (root / LABEL_MAP).is_file():
            known = read_label_map(inside(root, root / LABEL_MAP))
            columns.declared = known if known.names == columns.declared.names else columns.declared
        return
    used = columns.used_keys
    ids = tuple(sorted(filter(is_whole, used)))
    if used and len(ids) == len(used):
        columns.category_names = {number: str(number) for number in ids}
        columns.declared = LabelMap(tuple(str(number) for number in ids), ids)
        return
    columns.category_names = {key: key.strip() for key in used if isinstance(key, str) and key.strip()}


def _column(dataset: "datasets.Dataset", names: tuple[str, ...], what: str, source: str) -> str:
    if (name := next((name for name in names if name in dataset.column_names), None)) is None:
        raise DataError(
            f"{source} has no column {what!r}, but {', '.join(map(printable, dataset.column_names[:8]))}. Detection "
            "data are a column image and a column objects with bbox (x, y, width, height in pixels) and category."
        )
    return name


def _refuse_links(source: Path) -> None:
    """Check that no link leads out of a folder to what `datasets` would read, images aside, which are looked at later.

    Raises:
        DataError: one does.
    """
    for place, folders, files in os.walk(source):
        folders[:] = (name for name in folders if not name.startswith("."))
        for name in (*folders, *(file for file in files if file.lower().endswith(_TABLES))):
            if os.path.islink(path := os.path.join(place, name)):
                inside(source, Path(path))


def _split_folders(source: Path) -> list[Path]:
    return [path for path in source.iterdir() if path.is_dir() and standard_split(path.name)]


def _parquet_split(file: Path, source: Path) -> str:
    """The split of `train-00000-of-00002.parquet`, or of the folder that a file is in."""
    return standard_split(file.stem) or standard_split(file.parent.name if file.parent != source else "") or "train"


__all__ = ["LABEL_MAP", "find", "from_datasets", "open_hub", "read", "write_datasets"]
