"""Azure ML's form: a folder with an MLTable file and JSON lines, boxes normalised by the image."""

import json
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deformable_detr_refine.messages import described, printable
from deformable_detr_refine.modeling.image_io import image_size, is_url

from ..defects import ABSENT_IMAGE, UNREADABLE_ANNOTATION, UNREADABLE_IMAGE, AnnotationError, DataError
from ..detection_data import DetectionData
from ..label_map import LabelMap
from .image_files import ImageFiles, files_in, inside
from .mltable import MLTABLE, mltable_paths
from .new_images import NewImages, new_data_folder, objects_of, rows_of
from .split_columns import SplitColumns
from .split_names import by_split, standard_split
from .text_files import read_labels, write_labels
from .values import to_box

CORNERS = ("topX", "topY", "bottomX", "bottomY")
_MLTABLE_TEXT = """\
paths:
  - file: ./{name}
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
      include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""
_REMOTE = ("azureml:", "amldatastore:")
_LONGEST_LINE = 2**26


@dataclass
class AzureSplit:
    """The files of JSON lines of one split, and the folder that their paths start from."""

    folder: Path
    files: list[Path]

    def __str__(self) -> str:
        return str(self.folder)


def find(source: Path) -> dict[str, AzureSplit]:
    """The splits of an MLTable folder, of a folder of such folders, or of JSON lines; none when it holds none."""
    if source.is_file():
        if source.name == MLTABLE:
            return find(source.parent)
        split = standard_split(source.stem) or "train"
        return {split: AzureSplit(source.parent, [source])} if _looks_like_azure(source) else {}
    if (source / MLTABLE).is_file():
        # Whatever the user's folder is called.
        return {"train": AzureSplit(source, _files_of(source / MLTABLE, source))}
    tables = files_in(source, f"*/{MLTABLE}")
    if tables:
        return by_split((table.parent.name, AzureSplit(table.parent, _files_of(table, source))) for table in tables)
    files = [inside(source, file) for file in files_in(source, "*.jsonl") if _looks_like_azure(file)]
    if len(files) == 1:
        return {standard_split(files[0].stem) or "train": AzureSplit(source, files)}
    return by_split((file.stem, AzureSplit(source, [file])) for file in files)


def read(split: str, annotations: AzureSplit, root: Path) -> SplitColumns:
    """Reads the JSON lines of one split. Images behind http URLs stay there; azureml URLs are looked for by their path.

    Args:
        split: its name.
        annotations: its files.
        root: the data folder, below which images lie.
    """
    columns = SplitColumns(split, str(annotations), "xyxy", parts=True)
    columns.declared = read_labels((annotations.folder,), root)
    images = _Images(annotations.folder, root)
    for file in annotations.files:
        for line, item in _lines(file):
            try:
                if isinstance(item, AnnotationError):
                    raise item
                _add_line(columns, item, str(file), line, images)
            except AnnotationError as error:
                name = item.get("image_url") if isinstance(item, dict) else ""
                columns.add_defect(
                    UNREADABLE_ANNOTATION, line, error.reason, file=str(file), image=str(name), loses="image"
                )
    return columns


def write_azure(data: DetectionData, folder: str | Path) -> None:
    """Writes a folder for each split, with MLTable, SPLIT.jsonl, images/ and labels.txt with the class names.

    Corners are parts of the image, exact to 1e-6 pixels; boxes that stand over the edge are cut there. Images behind
    URLs stay there. The form has no place for the ids of images, objects and categories and for areas.

    Args:
        data: a data set.
        folder: a new or empty folder.

    Raises:
        DataError: there is something in the folder, or an image cannot be copied.
    """
    with new_data_folder(folder) as new:
        for split, dataset in data.splits.items():
            place = new / split
            place.mkdir()
            (place / MLTABLE).write_text(_MLTABLE_TEXT.format(name=f"{split}.jsonl"), encoding="utf-8")
            write_labels(data.label_map, place)
            images = NewImages(place / "images")
            with (place / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for row in rows_of(dataset):
                    path = row["image"]["path"]
                    url = path if is_url(path) else f"./images/{images.put(row)}"
                    file.write(json.dumps(_item(url, row, data.label_map), ensure_ascii=False) + "\n")


def _item(url: str, row: dict[str, Any], label_map: LabelMap) -> dict[str, Any]:
    width, height = row["width"], row["height"]
    labels = []
    for _, (x, y, w, h), label, _, crowd in objects_of(row):
        corners = (x / width, y / height, (x + w) / width, (y + h) / height)
        entry = dict(zip(CORNERS, (round(min(max(value, 0), 1), 12) for value in corners), strict=True))
        labels.append({"label": label_map.names[label], **entry, "isCrowd": crowd})
    kind = Path(url.partition("?")[0]).suffix.removeprefix(".").lower() or "jpg"
    return {"image_url": url, "image_details": {"format": kind, "width": width, "height": height}, "label": labels}


def _add_line(columns: SplitColumns, item: Any, file: str, line: int, images: "_Images") -> None:
    if not isinstance(item, dict) or not isinstance(item.get("image_url"), str):
        raise AnnotationError(file, line, "the line is no object with an image_url")
    url, labels = item["image_url"], item.get("label")
    if not isinstance(labels, list):
        raise AnnotationError(file, line, f"label is no list of boxes, but {described(labels)}")
    details = item.get("image_details")
    details = details if isinstance(details, dict) else {}
    width, height = (_side(details.get(side)) for side in ("width", "height"))
    name, path, kind, text = images.find(url)
    if path is not None and not (width and height):
        try:
            if is_url(path):
                raise DataError(f"{printable(url)} has no size in image_details, and URLs are not fetched to find it.")
            width, height = image_size(path)
        except (OSError, ValueError) as error:
            path, kind, text = None, UNREADABLE_IMAGE, printable(str(error).rstrip("."), 300)
    if path is None:
        columns.add_defect(kind, line, text, file=file, image=name, loses="image")
    image = columns.add_image(name, path, width, height, file)
    for label in labels:
        try:
            box, name = _box(label)
        except ValueError as error:
            columns.add_unreadable(image, line, str(error))
            continue
        columns.category_names.setdefault(name, name)
        columns.add_box(image, box, name, line, crowd=label.get("isCrowd", 0))


def _box(label: Any) -> tuple[array, str]:
    """The corners, 0..1, and the name of one entry of `label`."""
    if not isinstance(label, dict) or not isinstance(label.get("label"), str):
        raise ValueError(f"an entry of label has no name: {described(label)}")
    return to_box([label.get(corner) for corner in CORNERS]), label["label"].strip()


class _Images:
    """Finds the image of an image_url; see `find`."""

    def __init__(self, folder: Path, root: Path):
        folder, root = Path(os.path.abspath(folder)), Path(os.path.abspath(root))
        places = dict.fromkeys((folder, folder / "images", root, root / "images"))
        self._files = [(place, ImageFiles(root, [place])) for place in places if place.is_dir()]

    def find(self, url: str) -> tuple[str, str | None, str, str]:
        """File name and path of an image, or why there is none: (name, None, kind of defect, text)."""
        if is_url(url):
            return url, url, "", ""
        remote = url.lower().startswith(_REMOTE)
        if remote:
            # The longest end of the path that exists: a data store's folders stand before those of the data set.
            parts = [part for part in url.split("://", 1)[-1].split("/") if part]
            tried = ["/".join(parts[start:]) for start in range(len(parts))]
        else:
            tried = [re.sub(r"^(file://|(\./)+)", "", url)]
        problems: list[tuple[str, str]] = []
        for name in tried:
            for _, files in self._files:
                path, kind, text = files.find(name)
                if path is not None:
                    return self._name(path), path, "", ""
                problems.append((kind, text))
        if remote:
            text = f"the image {printable(url)} is not below the folder; download the data store's folder to it"
            return url, None, ABSENT_IMAGE, text
        kind, text = problems[0]
        return url, None, kind, text

    def _name(self, path: str) -> str:
        """The name below the folder of images, or below the data folder."""
        inside = [place for place, _ in self._files if Path(path).is_relative_to(place)]
        return min((Path(path).relative_to(place).as_posix() for place in inside), key=len)


def _lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of each line that is not empty; an `AnnotationError` in place of what is no JSON."""
    with file.open("rb") as opened:
        number = 0
        while text := opened.readline(_LONGEST_LINE):
            number += 1
            if len(text) == _LONGEST_LINE:
                raise AnnotationError(file, number, "the line is too long to be an annotation")
            if not (text := text.removeprefix(b"\xef\xbb\xbf").strip()):
                continue
            try:
                yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
                yield number, AnnotationError(file, number, f"this is not valid JSON: {printable(str(error))}")


def _files_of(table: Path, root: Path) -> list[Path]:
    """The files of JSON lines that an MLTable names, all of them below the data folder."""
    names = [path.get("file") for path in mltable_paths(inside(root, table)) if isinstance(path, dict)]
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{table} names no file of JSON lines (paths: - file: ./NAME.jsonl).")
    files = []
    for name in names:
        path, _, text = ImageFiles(root, [table.parent]).find(name)
        if path is None:
            raise DataError(f"{table}: {text.replace('the image', 'the file')}.")
        files.append(Path(path))
    return files


def _side(value: Any) -> Any:
    """A side in pixels; Azure also writes "400px"."""
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*(px)?\s*", value) if isinstance(value, str) else None
    value = int(match[1]) if match else value
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else 0


def _looks_like_azure(file: Path) -> bool:
    if file.suffix.lower() != ".jsonl":
        return False
    with file.open("rb") as opened:
        return b'"image_url"' in opened.read(2**16)


__all__ = ["find", "read", "write_azure"]
