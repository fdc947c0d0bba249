"""COCO's JSON: reading the layouts that people have, and writing it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from deformable_detr_refine.messages import described, printable

from ..defects import DUPLICATE_IMAGE, UNKNOWN_IMAGE, UNREADABLE_ANNOTATION, AnnotationError, DataError
from ..detection_data import DetectionData
from ..label_map import LabelMap
from .image_files import ImageFiles, files_in, inside
from .json_stream import stream_object
from .new_images import NewImages, new_data_folder, objects_of, rows_of
from .split_columns import SplitColumns
from .split_names import by_split, split_token, standard_split
from .values import id_of, is_whole, to_box

ROBOFLOW = "_annotations.coco.json"
_ANNOTATION_FOLDERS = ("annotations", "Annotations")
_HEAD = 2**16
_COCO_KEY = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


def find(source: Path) -> dict[str, Path]:
    """The COCO files of a folder, by split; none when it holds none."""
    if source.is_file():
        return {standard_split(source.stem) or "train": source} if _looks_like_coco(source) else {}
    files = [file for file in files_in(source, f"*/{ROBOFLOW}") if _looks_like_coco(file)]
    if files:
        return by_split((file.parent.name, inside(source, file)) for file in files)
    folders = [source / name for name in _ANNOTATION_FOLDERS] + [source]
    files = [file for folder in folders for file in files_in(folder, "*.json") if _looks_like_coco(file)]
    # Beside COCO's boxes lie its captions and key points of the same images.
    files = [file for file in files if file.name.startswith("instances_")] or files
    files = [inside(source, file) for file in files]
    if len(files) == 1:
        return {standard_split(files[0].stem) or "train": files[0]}
    return by_split((file.stem, file) for file in files)


def read(split: str, file: Path, root: Path) -> SplitColumns:
    """Reads one COCO file; segmentations are passed over.

    Args:
        split: its name.
        file: the JSON.
        root: the data folder, below which images lie.

    Raises:
        DataError: it is no COCO JSON.
    """
    name = str(file)
    columns = SplitColumns(split, name)
    images: list[tuple] = []
    categories: list[tuple] = []
    numbers: dict[int | str, int] | None = None
    too_early = False
    for key, item, line in stream_object(file):
        if key not in ("images", "annotations", "categories"):
            continue
        if not isinstance(item, dict):
            loses = "image" if key == "images" else "object"
            text = f"an item of {key} is {described(item)}, not an object"
            columns.add_defect(UNREADABLE_ANNOTATION, line, text, file=name, loses=loses)
        elif key == "images":
            images.append((id_of(item.get("id")), item.get("file_name"), item.get("width"), item.get("height"), line))
        elif key == "categories":
            categories.append((id_of(item.get("id")), item.get("name"), line))
        elif not images:
            too_early = True
        else:
            if numbers is None:
                numbers = _add_images(columns, images, name, file, root)
            _add_annotation(columns, item, line, name, numbers)
    _add_categories(columns, categories, name)
    if numbers is None:
        numbers = _add_images(columns, images, name, file, root)
    if too_early:  # read them again, rather than hold a million of them
        for key, item, line in stream_object(file):
            if key == "annotations" and isinstance(item, dict):
                _add_annotation(columns, item, line, name, numbers)
    return columns


def write_coco(data: DetectionData, folder: str | Path) -> None:
    """Writes annotations/instances_SPLIT.json and SPLIT/ with the images; nothing is lost but unusual file names.

    Args:
        data: a data set.
        folder: a new or empty folder.

    Raises:
        DataError: there is something in the folder, or an image cannot be copied.
    """
    ids = data.coco_ids
    categories = [{"id": number, "name": name} for number, name in zip(ids, data.label_map.names, strict=True)]
    with new_data_folder(folder) as new:
        (new / "annotations").mkdir()
        for split, dataset in data.splits.items():
            with (new / "annotations" / f"instances_{split}.json").open("w", encoding="utf-8") as file:
                file.write('{"images": [')
                images = NewImages(new / split)
                _write_items(file, (_image_item(row, images.put(row)) for row in rows_of(dataset)))
                file.write('], "annotations": [')
                _write_items(file, _annotation_items(dataset, ids))
                file.write('], "categories": [')
                _write_items(file, categories)
                file.write("]}\n")


def _image_item(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {"id": _own_id(row), "file_name": name, "width": row["width"], "height": row["height"]}


def _own_id(row: dict[str, Any]) -> int | str:
    return row.get("source_id", row["image_id"])


def _annotation_items(dataset: Any, ids: Sequence[int | str]) -> Iterator[dict[str, Any]]:
    for row in rows_of(dataset.remove_columns("image")):
        for box_id, bbox, label, area, crowd in objects_of(row):
            *bbox, area = (float(str(value)) for value in np.array([*bbox, area], np.float32))  # the fewest digits
            yield {
                "id": box_id,
                "image_id": _own_id(row),
                "category_id": ids[label],
                "bbox": bbox,
                "area": area,
                "iscrowd": crowd,
            }


def _write_items(file: TextIO, items: Iterable[dict[str, Any]]) -> None:
    """Writes the items of a list, one a line."""
    for index, item in enumerate(items):
        file.write((",\n" if index else "\n") + json.dumps(item, ensure_ascii=False))


def _add_annotation(columns: SplitColumns, item: dict, line: int, file: str, numbers: dict[int | str, int]) -> None:
    box_id, image_id, category_id = (id_of(item.get(key)) for key in ("id", "image_id", "category_id"))
    image = numbers.get(image_id) if isinstance(image_id, int | str) else None
    if image is None:
        text = f"the annotation {described(box_id)} is of image {described(image_id)}, which is not listed"
        columns.add_defect(UNKNOWN_IMAGE, line, text, file=file)
        return
    try:
        box = to_box(item.get("bbox"))
    except ValueError as error:
        columns.add_unreadable(image, line, f"the annotation {described(box_id)} has no usable bbox: {error}")
        return
    category = category_id if isinstance(category_id, int | str) else repr(category_id)
    columns.add_box(image, box, category, line, item.get("area"), item.get("iscrowd", 0), box_id)


def _add_categories(columns: SplitColumns, categories: list[tuple[Any, Any, int]], file: str) -> None:
    if not categories:
        raise DataError(f"{file} has no list of categories, as a COCO JSON of boxes needs.")
    for number, name, line in categories:
        if not isinstance(number, int | str) or not isinstance(name, str):
            raise AnnotationError(file, line, f"a category needs an id and a name, not {described((number, name))}")
        if number in columns.category_names:
            raise AnnotationError(file, line, f"the category {described(number)} is there twice")
        columns.category_names[number] = name.strip()
    try:
        whole = tuple(sorted(filter(is_whole, columns.category_names)))
        ids: tuple[Any, ...] = whole if len(whole) == len(columns.category_names) else tuple(columns.category_names)
        columns.declared = LabelMap(tuple(columns.category_names[number] for number in ids), ids)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _add_images(columns: SplitColumns, images: list[tuple], name: str, file: Path, root: Path) -> dict[int | str, int]:
    """Adds the images, and gives the number of each id."""
    image_files = ImageFiles(
        root, _image_folders(file, root), (image[1] for image in images if isinstance(image[1], str))
    )
    numbers: dict[int | str, int] = {}
    for image_id, file_name, width, height, line in images:
        shown_name = str(file_name)
        if not isinstance(image_id, int | str):
            text = f"the image {printable(shown_name)} has no usable id ({described(image_id)})"
            columns.add_defect(UNREADABLE_ANNOTATION, line, text, file=name, image=shown_name, loses="image")
            continue
        if image_id in numbers:
            text = f"the image id {described(image_id)} ({printable(shown_name)}) is there twice"
            columns.add_defect(DUPLICATE_IMAGE, line, text, file=name, image=shown_name, loses="image")
            continue
        path, kind, text = image_files.find(file_name)
        if path is None:
            columns.add_defect(kind, line, text, file=name, image=shown_name, loses="image")
        numbers[image_id] = columns.add_image(shown_name, path, width, height, name, image_id)
    return numbers


def _image_folders(file: Path, root: Path) -> Iterable[Path]:
    """Where the images of a COCO file may be, the likeliest first."""
    token = split_token(file.stem) or split_token(file.parent.name) or file.stem.removeprefix("instances_")
    places = [file.parent, file.parent.parent, root]
    for place in places:
        yield from (place / token, place / "images" / token, place / token / "images")
    for place in places:
        yield from (place / "images", place / "JPEGImages", place / "data", place)


def _looks_like_coco(file: Path) -> bool:
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    keys = {match[1] for match in _COCO_KEY.finditer(head)}
    # Label Studio's notes.json holds categories alone.
    needed = keys if len(head) == _HEAD else keys & {b"images", b"annotations"}
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(needed)


__all__ = ["find", "read", "write_coco"]
