"""YOLO's text files: a data.yaml with names and folders, a line `class cx cy w h` for each box, normalised."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling.image_io import as_text, image_size, is_image_name

from ..defects import (
    ABSENT_IMAGE,
    NO_IMAGE_NAME,
    OUTSIDE_FOLDER,
    UNREADABLE_IMAGE,
    AnnotationError,
    DataError,
)
from ..detection_data import DetectionData
from ..label_map import LabelMap
from .image_files import ImageFiles, Links, files_in, images_below, inside, link_text, not_images
from .new_images import NewImages, new_data_folder, objects_of, rows_of
from .split_columns import SplitColumns
from .split_names import standard_split
from .text_files import read_lines
from .yolo_config import YoloSplit, below, find
from .yolo_lines import TRACK, box_of, doubt_of, looks_like_labels, numbers_of

_ENOUGH_LINES = 10


def read(split: str, annotations: YoloSplit, root: Path) -> SplitColumns:
    """Reads one split. The size of each image is read from its header, since the boxes are given in parts of it.

    A line may also be a polygon, as for segmentation and turned boxes; its box is the one around it. Key points behind
    a box are passed over where data.yaml's kpt_shape tells of them; what is neither is a defect. An image without a
    file of labels has no objects, as YOLO has it; one whose file cannot be read is left out. Labels without an image
    are a defect.

    Args:
        split: its name.
        annotations: its places.
        root: the data folder, below which images lie.

    Raises:
        DataError: a place is not there or is empty, or no image has labels.
    """
    columns = SplitColumns(split, str(annotations.config), "cxcywh", parts=True)
    numbers = tuple(sorted(annotations.names))
    columns.declared = LabelMap(tuple(annotations.names[number] for number in numbers), numbers)
    columns.category_names.update(annotations.names.items())
    labelled, polygons, doubtful, places = 0, 0, [], {}
    links = Links(root)
    beside = Links(root.parent / "labels") if root.name == "images" else links
    for name, path in _images(columns, annotations, root):
        labels = labels_path(path)
        has_labels = os.path.lexists(labels)
        labelled += has_labels
        places[os.path.dirname(labels)] = os.path.dirname(path)
        what = f"the image {printable(name)}" if links.leads_out(path) else ""
        if has_labels and not what and links.leads_out(labels) and beside.leads_out(labels):
            what = f"the file of labels of {printable(name)}"
        if what:
            columns.add_defect(OUTSIDE_FOLDER, 1, link_text(what), file=path, image=name, loses="image")
            continue
        try:
            width, height = image_size(path)
        except (OSError, ValueError) as error:
            columns.add_defect(UNREADABLE_IMAGE, 1, str(error).rstrip("."), file=path, image=name, loses="image")
            continue
        image = columns.add_image(name, path, width, height, labels)
        if not has_labels:
            continue
        try:
            lines = read_lines(labels)
        except (OSError, ValueError) as error:
            columns.lose_image(image, None, f"the labels cannot be read: {getattr(error, 'strerror', None) or error}")
            continue
        for line, text in enumerate(lines, 1):
            if not (words := text.split()):
                continue
            try:
                number, values = numbers_of(words)
                box = box_of(values, annotations.key_points)
            except ValueError as error:
                columns.add_unreadable(image, line, str(error))
                continue
            doubt = doubt_of(values) if len(values) > 4 and annotations.key_points is None else None
            polygons += len(values) > 4 and doubt is None
            if doubt:
                doubtful.append((doubt, image, box, number, line))
            else:
                columns.add_box(image, box, number, line)
    # Where most lines can only be polygons, the doubtful ones are too.
    certain = len(doubtful) >= max(_ENOUGH_LINES, 10 * polygons)
    for doubt, image, box, number, line in doubtful:
        if certain or (not polygons and doubt == TRACK):
            columns.add_unreadable(image, line, doubt)
        else:
            columns.add_box(image, box, number, line)
    _note_labels_without_image(columns, annotations, root, places, links)
    if not labelled:
        raise DataError(
            f"{annotations.config}: no image of {split} has a file of labels; YOLO has labels/1.txt for images/1.jpg."
        )
    return columns


def write_yolo(data: DetectionData, folder: str | Path) -> None:
    """Writes data.yaml, images/SPLIT/ and labels/SPLIT/; numbers have ten digits, exact to 1e-6 pixels.

    YOLO's lines have no place for ids, areas and crowds: crowds are left out, with a warning that says how many. Boxes
    that stand over the edge are cut there, for readers of this form refuse an image with others. Images come back
    sorted by name.

    Args:
        data: a data set.
        folder: a new or empty folder.

    Raises:
        DataError: there is something in the folder, a split has an unusual name, or an image cannot be copied.
    """
    if other := next((split for split in data.splits if standard_split(split) != split), None):
        raise DataError(f"YOLO's form has no split {other!r}; its splits are train, validation and test.")
    crowds = 0
    with new_data_folder(folder) as new:
        keys = {split: "val" if split == "validation" else split for split in data.splits}
        config = {**{key: f"images/{key}" for key in keys.values()}, "names": data.label_map.id2label}
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (new / "data.yaml").write_text(text, encoding="utf-8")
        for split, dataset in data.splits.items():
            images = NewImages(new / "images" / keys[split], flat=True)
            (new / "labels" / keys[split]).mkdir(parents=True)
            for row in rows_of(dataset):
                labels = new / "labels" / keys[split] / Path(images.put(row)).with_suffix(".txt")
                lines = [_line(label, bbox, row) for _, bbox, label, _, crowd in objects_of(row) if not crowd]
                labels.write_text("".join(lines), encoding="utf-8")
                crowds += len(row["objects"]["id"]) - len(lines)
    if crowds:
        warnings.warn(f"{folder}: {crowds} crowds are left out, since YOLO's form has none.", stacklevel=2)


def _line(label: int, bbox: list[float], row: dict[str, Any]) -> str:
    x, y, w, h = bbox
    x0, x1 = (min(max(value / row["width"], 0), 1) for value in (x, x + w))
    y0, y1 = (min(max(value / row["height"], 0), 1) for value in (y, y + h))
    return f"{label} {(x0 + x1) / 2:.10g} {(y0 + y1) / 2:.10g} {x1 - x0:.10g} {y1 - y0:.10g}\n"


def labels_path(image: str | Path) -> str:
    """The file of labels of an image: the last folder `images` of its path is `labels`, and it ends in .txt.

    Example:
        >>> labels_path("pets/images/train/1.jpg")
        'pets/labels/train/1.txt'
    """
    head, separator, tail = str(image).rpartition(f"{os.sep}images{os.sep}")
    path = f"{head}{os.sep}labels{os.sep}{tail}" if separator else str(image)
    return os.path.splitext(path)[0] + ".txt"


def _note_labels_without_image(
    columns: SplitColumns, annotations: YoloSplit, root: Path, places: dict[str, str], links: Links
) -> None:
    """Notes each file of labels that no image goes with.

    Args:
        columns: of the split.
        annotations: its places.
        root: the data folder.
        places: folders of labels, and the folders of their images.
        links: out of the data folder, which are not looked into.
    """
    for place in annotations.places:
        if (path := _place(annotations, place, root)) is not None and path.is_dir():
            top = os.path.dirname(labels_path(path / "any"))
            for folder, folders, _ in os.walk(top):
                folders[:] = [name for name in folders if not name.startswith(".")]
                places.setdefault(folder, os.path.join(path, os.path.relpath(folder, top)))
    for folder, of_images in places.items():
        labels = [] if links.folder_leads_out(folder) else files_in(Path(folder), "*.txt")
        images = {file.stem for file in files_in(Path(of_images), "*") if is_image_name(file)} if labels else ()
        for file in labels:
            if file.stem not in images and looks_like_labels(file):
                text = f"there is no image of these labels in {as_text(of_images)}"
                columns.add_defect(ABSENT_IMAGE, None, text, file=str(file), image=file.stem, loses="image")


def _images(columns: SplitColumns, annotations: YoloSplit, root: Path) -> Iterator[tuple[str, str]]:
    """Name and path of each image of a split; what is none is noted."""
    for place in annotations.places:
        path = _place(annotations, place, root)
        if path is None:
            raise DataError(
                f"{annotations.config}: {printable(place)} is not in {annotations.root}; "
                "images are read from below that folder alone."
            )
        if path.is_file():
            yield from _listed(path, annotations.root, root)
            continue
        others: Counter[str] = Counter()
        names = list(images_below(path, others))
        del others[".txt"]  # labels may lie beside the images
        if others:
            columns.add_defect(NO_IMAGE_NAME, None, not_images(others), file=str(path), loses="")
        if not names:
            raise DataError(f"{annotations.config}: there is no image in {path}.")
        base = "" if len(annotations.places) == 1 else f"{Path(os.path.relpath(path, annotations.root)).as_posix()}/"
        yield from ((base + name, os.path.join(path, name)) for name in names)


def _listed(file: Path, folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """The images that a text file lists, one path per line."""
    images = ImageFiles(root, [folder])
    for number, line in enumerate(read_lines(inside(root, file), of_names=True), 1):
        if name := line.strip():
            path, _, text = images.find(name)
            if path is None:
                raise AnnotationError(file, number, text)
            yield name.removeprefix("./"), path


def _place(annotations: YoloSplit, place: str, root: Path) -> Path | None:
    return below(annotations.root, place, root) or below(annotations.root, place.removeprefix("../"), root)


__all__ = ["find", "labels_path", "read", "write_yolo"]
