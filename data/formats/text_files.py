"""The small text files of a data set: lists of images, and of class names."""

from collections.abc import Iterable
from pathlib import Path

from ..defects import DataError
from ..label_map import LabelMap
from .image_files import inside

LABELS = "labels.txt"  # one class name per line, in the order of the labels; for forms that declare no classes


def read_lines(path: str | Path, of_names: bool = False) -> list[str]:
    """The lines of a text file of UTF-8.

    Args:
        path: the file.
        of_names: they are names of files, which may hold bytes that are no UTF-8.

    Raises:
        DataError: it is none.
    """
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):  # a device may never end
        raise DataError(f"{path} is no file.")
    try:
        errors = "surrogateescape" if of_names else "strict"
        return Path(path).read_text(encoding="utf-8-sig", errors=errors).splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text of UTF-8: {error}.") from error


def read_labels(folders: Iterable[Path], root: Path) -> LabelMap | None:
    """The classes that labels.txt of the first of these folders that has one declares; None when none has.

    Raises:
        DataError: it cannot be read, or links lead from it out of the folder `root`.
    """
    path = next((folder / LABELS for folder in folders if (folder / LABELS).is_file()), None)
    if path is None:
        return None
    inside(root, path)
    try:
        return LabelMap(tuple(line.strip() for line in read_lines(path) if line.strip()))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def write_labels(label_map: LabelMap, folder: Path) -> None:
    """Writes labels.txt."""
    (folder / LABELS).write_text("\n".join(label_map.names) + "\n", encoding="utf-8")


__all__ = ["read_labels", "read_lines", "write_labels"]
