"""Pascal VOC's XML: reading the layouts that people have, and writing it."""

import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape

from deformable_detr_refine.messages import printable

from ..defects import OTHER_NAME, OUTSIDE_FOLDER, UNREADABLE_ANNOTATION, AnnotationError, DataError
from ..detection_data import DetectionData
from .image_files import ImageFiles, Links, files_in, inside, link_text
from .new_images import NewImages, new_data_folder, objects_of, rows_of
from .split_columns import SplitColumns
from .split_names import by_split, standard_split
from .text_files import read_labels, read_lines, write_labels

_ROOT = re.compile(rb"<annotation[\s/>]")
_OTHER_SHAPES = {"robndbox": "a rotated box", "polygon": "a polygon", "keypoints": "key points"}
_FILES_LOOKED_AT = 10
_ANNOTATION_FOLDERS = ("Annotations", "annotations", "")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_CLASS_LIST = re.compile("_(train|val|trainval|test)$")  # VOC also lists the images of every class: cat_train.txt
_OBJECT = ("annotation", "object")
_TEXTS = {("annotation", "filename"), ("annotation", "size", "width"), ("annotation", "size", "height")}
_OBJECT_TEXTS = {(*_OBJECT, "name"), (*_OBJECT, "iscrowd"), *((*_OBJECT, "bndbox", corner) for corner in _CORNERS)}


@dataclass
class VocSplit:
    """The XML files of one split and the folder that they and their images are below."""

    folder: Path
    files: list[Path]
    missing: list[tuple[Path, int, str]] = field(default_factory=list)  # list, line and name without an XML file

    def __str__(self) -> str:
        return str(self.folder)


@dataclass
class VocObject:
    """One object of a VOC file: its texts as they stand there, and the line its element begins at."""

    line: int
    texts: dict[str, str] = field(default_factory=dict)
    shape: str = ""  # another one than a box, as the tag says it

    @property
    def name(self) -> str:
        return self.texts.get("name", "")

    def corners(self) -> array:
        """xmin, ymin, xmax, ymax in pixels.

        Raises:
            ValueError: one is missing or no number.
        """
        if self.shape and "xmin" not in self.texts:
            raise ValueError(
                f"the object {printable(self.name)} is {_OTHER_SHAPES[self.shape]} ({self.shape}), no bndbox"
            )
        for text in ("name", *_CORNERS):
            if text not in self.texts or (text == "name" and not self.name):
                raise ValueError(f"the object {printable(self.name)} has no {text}".replace("  ", " "))
        try:
            return array("d", [float(self.texts[corner]) for corner in _CORNERS])
        except ValueError as error:
            raise ValueError(f"the object {printable(self.name)} has a corner that is no number: {error}") from error


@dataclass
class VocFile:
    """What one VOC file says of its image; sizes are 0 where it says nothing usable."""

    file_name: str = ""
    width: int = 0
    height: int = 0
    objects: list[VocObject] = field(default_factory=list)


def read_voc_file(path: str | Path) -> VocFile:
    """Reads one Pascal VOC file. Documents with a DTD are refused, so no entity is ever expanded or fetched.

    Raises:
        AnnotationError: it is no XML; the message says the line.
    """
    voc_file, stack, texts = VocFile(), [], []
    parser = expat.ParserCreate()

    def start(tag: str, _: dict) -> None:
        stack.append(tag)
        texts.clear()
        if len(stack) == 1 and tag != "annotation":
            text = f"the document is <{printable(tag)}>, not Pascal VOC's <annotation>"
            raise AnnotationError(path, parser.CurrentLineNumber, text)
        if len(stack) == len(_OBJECT) and tuple(stack) == _OBJECT:
            voc_file.objects.append(VocObject(parser.CurrentLineNumber))
        if len(stack) == len(_OBJECT) + 1 and tag in _OTHER_SHAPES and tuple(stack[:-1]) == _OBJECT:
            voc_file.objects[-1].shape = tag

    def end(_: str) -> None:
        path_here, value = tuple(stack[:5]), "".join(texts).strip()  # no deeper, or the cost is the square of the depth
        if path_here in _OBJECT_TEXTS:
            voc_file.objects[-1].texts[path_here[-1]] = value
        elif path_here in _TEXTS:
            if path_here[-1] == "filename":
                voc_file.file_name = value
            else:
                setattr(voc_file, path_here[-1], int(value) if value.isascii() and value.isdigit() else 0)
        stack.pop()
        texts.clear()

    def refuse(*_: object) -> None:
        raise AnnotationError(path, parser.CurrentLineNumber, "a DTD in an annotation is refused; take it out")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = texts.append
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise AnnotationError(path, error.lineno, f"this is not valid XML: {reason}") from error
    except OSError as error:
        raise AnnotationError(path, 1, f"the file cannot be read: {error.strerror or error}") from error
    except AnnotationError:
        raise
    except (LookupError, ValueError) as error:  # of codecs that Python does not know, or that XML cannot have
        line = parser.CurrentLineNumber
        raise AnnotationError(path, line, f"the XML's encoding is not read ({error}); save it as UTF-8") from error
    return voc_file


def find(source: Path) -> dict[str, VocSplit]:
    """The VOC files of a folder, by split; none when it holds none."""
    if source.is_file():
        return {}
    if files := _xml_files(source):
        return _by_lists(source, files) or {"train": VocSplit(source, files)}
    folders = (path for path in sorted(source.iterdir()) if path.is_dir() and standard_split(path.name))
    return by_split((path.name, VocSplit(path, files)) for path in folders if (files := _xml_files(path)))


def read(split: str, annotations: VocSplit, root: Path) -> SplitColumns:
    """Reads the VOC files of one split.

    xmin, ymin, xmax, ymax become x, y, xmax - xmin, ymax - ymin, without an offset.

    Args:
        split: its name.
        annotations: its files.
        root: the data folder, below which images lie.
    """
    columns = SplitColumns(split, str(annotations.folder), "xyxy")
    columns.declared = read_labels((annotations.folder, root), root)
    for file, line, stem in annotations.missing:
        text = f"the image {printable(stem)} is listed, but has no annotation"
        columns.add_defect(UNREADABLE_ANNOTATION, line, text, file=str(file), image=stem, loses="image")
    folders = [annotations.folder / name for name in _IMAGE_FOLDERS]
    images = ImageFiles(
        root, folders, (f"{file.stem}{end}" for end in (".jpg", ".png") for file in annotations.files[:50])
    )
    links = Links(root)
    for file in annotations.files:
        name = str(file)
        if links.leads_out(name):
            text = link_text(f"the annotation {printable(file.name)}")
            columns.add_defect(OUTSIDE_FOLDER, 1, text, file=name, image=file.stem, loses="image")
            continue
        try:
            voc = read_voc_file(file)
        except AnnotationError as error:
            kind = UNREADABLE_ANNOTATION
            columns.add_defect(kind, error.line, error.reason, file=name, image=file.stem, loses="image")
            continue
        file_name, path = _image(columns, voc, file, images)
        image = columns.add_image(file_name, path, voc.width, voc.height, name)
        for item in voc.objects:
            try:
                corners = item.corners()
            except ValueError as error:
                columns.add_unreadable(image, item.line, str(error))
                continue
            columns.category_names.setdefault(item.name, item.name)
            columns.add_box(image, corners, item.name, item.line, crowd=item.texts.get("iscrowd", 0))
    return columns


def write_voc(data: DetectionData, folder: str | Path) -> None:
    """Writes Annotations/, JPEGImages/, ImageSets/Main/SPLIT.txt and labels.txt with the class names in their order.

    VOC has no place for the ids of images, objects and categories and for areas. Crowds get an element `iscrowd`, which
    other readers pass over. Corners that are no whole numbers are written as they are.

    Args:
        data: a data set.
        folder: a new or empty folder.

    Raises:
        DataError: there is something in the folder, or an image cannot be copied.
    """
    names = [_xml_text(name) for name in data.label_map.names]
    with new_data_folder(folder) as new:
        for place in ("Annotations", "ImageSets/Main"):
            (new / place).mkdir(parents=True)
        write_labels(data.label_map, new)
        images = NewImages(new / "JPEGImages", flat=True)
        for split, dataset in data.splits.items():
            list_name = "val" if split == "validation" else split
            with (new / "ImageSets" / "Main" / f"{list_name}.txt").open("w", encoding="utf-8") as stems:
                for row in rows_of(dataset):
                    name = Path(images.put(row))
                    xml = new / "Annotations" / f"{name.stem}.xml"
                    xml.write_text(_xml(row, name.name, names), encoding="utf-8")
                    stems.write(f"{name.stem}\n")


def _xml(row: dict, file_name: str, names: list[str]) -> str:
    size = f"<width>{row['width']}</width><height>{row['height']}</height><depth>3</depth>"
    lines = ["<annotation>", f"\t<filename>{_xml_text(file_name)}</filename>", f"\t<size>{size}</size>"]
    for _, (x, y, width, height), label, _, crowd in objects_of(row):
        corners = zip(_CORNERS, (x, y, x + width, y + height), strict=True)
        box = "".join(f"<{corner}>{_number(value)}</{corner}>" for corner, value in corners)
        lines += [
            "\t<object>",
            f"\t\t<name>{names[label]}</name>",
            "\t\t<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>",
            *(["\t\t<iscrowd>1</iscrowd>"] if crowd else []),
            f"\t\t<bndbox>{box}</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>"]) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _xml_text(text: str) -> str:
    if not text.isprintable():
        raise DataError(f"The name {printable(text)!r} holds characters that XML cannot; rename it.")
    return escape(text)


def _image(columns: SplitColumns, voc: VocFile, file: Path, images: ImageFiles) -> tuple[str, str | None]:
    """File name and path of the image: the one named like the XML, as VOC has it, else the one that it names."""
    named = voc.file_name or f"{file.stem}.jpg"
    path, kind, text = images.find(named)
    by_stem = images.find_stem(file.stem)
    if by_stem is not None and by_stem != path:
        name = Path(by_stem).name
        if path is not None:
            said = f"the file names {printable(named)}, but {printable(name)} is taken, named like the annotation"
            columns.add_defect(OTHER_NAME, 1, said, file=str(file), image=name, loses="")
        return name, by_stem
    if path is None:
        columns.add_defect(kind, 1, text, file=str(file), image=named, loses="image")
    return named, path


def _xml_files(folder: Path) -> list[Path]:
    for name in _ANNOTATION_FOLDERS:
        files = files_in(folder / name, "*.xml")
        if any(map(_looks_like_voc, files[:_FILES_LOOKED_AT])):
            return files
    return []


def _by_lists(folder: Path, files: list[Path]) -> dict[str, VocSplit]:
    """The splits of ImageSets/Main, where there are lists of them."""
    by_stem = {file.stem: file for file in files}
    lists = files_in(folder / "ImageSets" / "Main", "*.txt")
    lists = [path for path in lists if not _CLASS_LIST.search(path.stem)]
    if len(lists) > 1:  # trainval is train and val once more
        lists = [path for path in lists if path.stem != "trainval"]
    splits = {}
    for split, path in by_split((path.stem, path) for path in lists).items():
        splits[split] = VocSplit(folder, [])
        for number, line in enumerate(read_lines(inside(folder, path), of_names=True), 1):
            if stem := next((stem for stem in (line.strip(), *line.split()[:1]) if stem in by_stem), None):
                splits[split].files.append(by_stem[stem])
            elif line.strip():
                splits[split].missing.append((path, number, line.strip()))
    return splits


def _looks_like_voc(file: Path) -> bool:
    with file.open("rb") as opened:
        return _ROOT.search(opened.read(2**16)) is not None


__all__ = ["VocFile", "VocObject", "find", "read", "read_voc_file", "write_voc"]
