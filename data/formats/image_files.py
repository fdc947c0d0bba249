"""The images that an annotation names: found below the data folder, and nowhere else; their sizes."""

import io
import os
import re
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image

from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling.image_io import FORMATS

from ..defects import ABSENT_IMAGE, OUTSIDE_FOLDER, DataError, described

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TRIED_NAMES = 100
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif", ".heic", ".ppm")


class ImageFiles:
    """Finds images below a data folder by the names that annotations give them.

    Folders are listed once instead of asking for each file: 118,000 questions to a network disk take minutes.

    Args:
        root: the data folder; no file outside it is ever given.
        folders: where the images may be, the likeliest first.
        names: file names of the split; the first folder that holds one of the first hundred is taken.
    """

    def __init__(self, root: Path, folders: Iterable[Path], names: Iterable[str] = ()):
        self._root = os.path.abspath(root)
        self._listings: dict[str, frozenset[str]] = {}
        self._stems: dict[str, str] | None = None
        there = [
            folder for folder in dict.fromkeys(os.path.abspath(folder) for folder in folders) if os.path.isdir(folder)
        ]
        tried = [name for name, _ in zip(names, range(_TRIED_NAMES), strict=False)]
        self._folder = there[0] if there else self._root
        self._folder = next((f for f in there if any(self._path(f, name)[0] for name in tried)), self._folder)

    def find(self, name: object) -> tuple[str | None, str, str]:
        """(path, "", "") of an image; where there is none (None, the defect's kind, what is wrong)."""
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            return None, ABSENT_IMAGE, f"the image has no usable file name ({described(name)})"
        return self._path(self._folder, name)

    def find_stem(self, stem: str) -> str | None:
        """Path of the image in the folder that is named `stem` before its suffix, as Pascal VOC names its images."""
        if self._stems is None:
            names = [name for name in sorted(self._listed(self._folder)) if name.lower().endswith(IMAGE_SUFFIXES)]
            self._stems = {os.path.splitext(name)[0]: name for name in names}
        name = self._stems.get(stem)
        return None if name is None else os.path.join(self._folder, name)

    def _path(self, folder: str, name: str) -> tuple[str | None, str, str]:
        path = os.path.normpath(os.path.join(folder, name))
        if not path.startswith(self._root.rstrip(os.sep) + os.sep):
            text = (
                f"the image {printable(name)} lies outside the data folder {self._root}, "
                "from which alone images are read"
            )
            return None, OUTSIDE_FOLDER, text
        head, tail = os.path.split(path)
        if tail in self._listed(head):
            return path, "", ""
        if "\\" in name:
            return self._path(folder, name.replace("\\", "/"))
        return None, ABSENT_IMAGE, f"the image {printable(name)} is listed, but not in {head}"

    def _listed(self, folder: str) -> frozenset[str]:
        if folder not in self._listings:
            try:
                with os.scandir(folder) as items:
                    self._listings[folder] = frozenset(item.name for item in items if item.is_file())
            except OSError:
                self._listings[folder] = frozenset()
        return self._listings[folder]


def image_size(source: str | bytes) -> tuple[int, int]:
    """Width and height of the upright image, from the file's header; no pixel is decoded.

    Raises:
        DataError: it cannot be opened as an image.
    """
    name = source if isinstance(source, str) else "the image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes and of damaged EXIF data: neither matters here
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
                width, height = image.size
                sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except Exception as error:  # PIL's readers raise many kinds on damaged headers
        raise DataError(f"{printable(name)} cannot be read as an image: {printable(str(error))}.") from error
    return (height, width) if sideways else (width, height)


def natural_key(path: str | Path) -> list:
    """Sorts 2.xml before 10.xml."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"([0-9]+)", str(path))]


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


__all__ = ["IMAGE_SUFFIXES", "ImageFiles", "image_size", "natural_key"]
