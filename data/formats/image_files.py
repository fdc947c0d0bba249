"""The files of a data set: those that a folder holds, and the images that an annotation names, found below it."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from deformable_detr_refine.messages import described, printable
from deformable_detr_refine.modeling.image_io import as_text, is_image_name

from ..defects import ABSENT_IMAGE, OUTSIDE_FOLDER, DataError

_TRIED_NAMES = 100
_MOST_WAYS = 100  # to a folder, by links: two in each of thirty folders are a billion


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
        self._listings: dict[str, dict[str, bool]] = {}
        self._links = Links(self._root)
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
            names = filter(is_image_name, sorted(self._listed(self._folder)))
            self._stems = {os.path.splitext(name)[0]: name for name in names}
        name = self._stems.get(stem)
        return None if name is None else self._path(self._folder, name)[0]

    def _path(self, folder: str, name: str) -> tuple[str | None, str, str]:
        path = os.path.normpath(os.path.join(folder, name))
        if not path.startswith(self._root.rstrip(os.sep) + os.sep):
            text = (
                f"the image {printable(name)} lies outside the data folder {self._root}, "
                "from which alone images are read"
            )
            return None, OUTSIDE_FOLDER, text
        head, tail = os.path.split(path)
        if tail in (listed := self._listed(head)):
            if self._links.folder_leads_out(head) or (listed[tail] and leads_out_of(self._root, path)):
                return None, OUTSIDE_FOLDER, link_text(f"the image {printable(name)}")
            return path, "", ""
        if "\\" in name:
            return self._path(folder, name.replace("\\", "/"))
        return None, ABSENT_IMAGE, f"the image {printable(name)} is listed, but not in {head}"

    def _listed(self, folder: str) -> dict[str, bool]:
        """Names of the files in a folder, and whether each is a link."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as items:
                    self._listings[folder] = {item.name: item.is_symlink() for item in items if item.is_file()}
            except OSError:
                self._listings[folder] = {}
        return self._listings[folder]


class Links:
    """Tells which files below a data folder are, by links on their way, files elsewhere; of each folder it asks once.

    Args:
        root: the data folder.
    """

    def __init__(self, root: str | Path):
        self._root = root
        self._folders: dict[str, bool] = {}

    def leads_out(self, path: str) -> bool:
        """Of a file."""
        return self.folder_leads_out(os.path.dirname(path)) or (os.path.islink(path) and leads_out_of(self._root, path))

    def folder_leads_out(self, folder: str) -> bool:
        if folder not in self._folders:
            self._folders[folder] = leads_out_of(self._root, folder)
        return self._folders[folder]


def inside(root: str | Path, path: Path) -> Path:
    """The path, of which all of a data set depends.

    Raises:
        DataError: links lead from it out of the folder `root`.
    """
    if leads_out_of(root, path):
        raise DataError(f"{link_text(as_text(str(path)))}.")
    return path


def leads_out_of(root: str | Path, path: str | Path) -> bool:
    """Whether a path below the folder `root` is, by links on its way, of a file elsewhere.

    A data set comes from others, and its links could lead to anybody's pictures. `DDETR_FOLLOW_LINKS=1` allows it. What
    huggingface_hub keeps of a repository is links to the files beside it.
    """
    if os.environ.get("DDETR_FOLLOW_LINKS") == "1":
        return False
    inside = Path(os.path.realpath(root))
    own = [inside, *(folder.parent / "blobs" for folder in inside.parents if folder.name == "snapshots")]
    real = Path(os.path.realpath(path))
    return not any(real.is_relative_to(folder) for folder in own)


def link_text(what: str) -> str:
    """What is wrong with a file that is a link, as the end of a sentence."""
    return (
        f"{what} is a link that leads out of the data folder; if that is meant, set DDETR_FOLLOW_LINKS=1, or name the "
        "folder that it leads to"
    )


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder that fit a pattern, sorted as people count; hidden ones are nobody's annotations."""
    paths = (path for path in folder.glob(pattern) if path.is_file())
    return sorted(
        (path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)),
        key=natural_key,
    )


def images_below(folder: str | Path, others: Counter[str]) -> Iterator[str]:
    """Paths from the folder on of the images in it and in its sub-folders, sorted as people count.

    Args:
        folder: where to look.
        others: counts what else lies there, by its suffix; `not_images` makes a text of it.

    Raises:
        OSError: a folder cannot be listed, or links lead to one again and again.
    """
    for inside, names in _folders_below(str(folder)):
        for name in names:
            if is_image_name(name):
                yield inside + name
            else:
                others[os.path.splitext(name)[1].lower() or name] += 1


def fitting(pattern: str) -> list[str]:
    """What fits a pattern as of `glob`, of which ** is any number of folders; those that cannot be listed hold nothing.

    Raises:
        OSError: links lead to a folder again and again.
    """
    begin, *rest = re.split(rf"(?:^|(?<=[/{re.escape(os.sep)}]))\*\*(?:[/{re.escape(os.sep)}]|$)", pattern, maxsplit=1)
    if not rest:
        return glob.glob(pattern)
    found: list[str] = []
    for base in glob.glob(begin) if begin else [""]:
        for inside, _ in _folders_below(base or ".", pass_over=True):
            last = "*" if pattern.endswith("**") else ""  # `**/` is folders only
            found += fitting(os.path.join(glob.escape(base + inside), rest[0] or last))
    return list(dict.fromkeys(found))


def _folders_below(folder: str, pass_over: bool = False) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, as paths from it on with a / at their ends, and the names of their files.

    Hidden files and folders are passed over, and with `pass_over` folders that cannot be listed. Links to folders are
    followed, but not round in a circle.
    """
    entered: Counter[str] = Counter()

    def below(inside: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
        place = os.path.join(folder, inside)
        real = os.path.realpath(place)
        if real in above:
            return
        entered[real] += 1
        if entered[real] > _MOST_WAYS:
            raise OSError(f"Links lead to the folder {as_text(real)} in more than {_MOST_WAYS} ways.")
        try:
            with os.scandir(place) as items:
                entries = [(item.name, _is_folder(item)) for item in items if not item.name.startswith(".")]
        except OSError as error:
            if pass_over:
                return
            raise OSError(f"The folder {as_text(place)} cannot be listed: {error.strerror or error}.") from error
        entries.sort(key=lambda item: natural_key(item[0]))
        yield inside, [name for name, is_folder in entries if not is_folder]
        for name, is_folder in entries:
            if is_folder:
                yield from below(f"{inside}{name}/", (*above, real))

    return below("", ())


def _is_folder(item: os.DirEntry) -> bool:
    try:
        return item.is_dir()
    except OSError:  # links in a circle
        return False


def not_images(others: Counter[str]) -> str:
    """What lies beside the images of a folder.

    Example:
        >>> not_images(Counter({".txt": 2, ".mp4": 1}))
        '3 files are no images by their names (.txt 2, .mp4 1)'
    """
    kinds = ", ".join(f"{printable(kind)} {count}" for kind, count in others.most_common(8))
    verb = "files are no images by their names" if others.total() > 1 else "file is no image by its name"
    return f"{others.total()} {verb} ({kinds}{', ...' if len(others) > 8 else ''})"


def natural_key(path: str | Path) -> list:
    """Sorts 2.xml before 10.xml."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"([0-9]+)", str(path))]


__all__ = [
    "ImageFiles",
    "Links",
    "files_in",
    "fitting",
    "images_below",
    "inside",
    "leads_out_of",
    "link_text",
    "natural_key",
    "not_images",
]
