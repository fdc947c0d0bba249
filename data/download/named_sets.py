"""Published data sets by name: their archive is downloaded, laid out as Pascal VOC and split."""

import os
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deformable_detr_refine.files import new_path
from deformable_detr_refine.modeling.image_io import is_image_name

from ..defects import DataError
from ..formats.image_files import natural_key
from .archive import files_of, open_archive, unpack
from .fetch import fetch

LISTS = PurePosixPath("ImageSets/Main")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class NamedSet:
    """A published archive with images and Pascal VOC files.

    Args:
        name: as the command line calls it.
        addresses: where it is published; they are tried in this order.
        images: the archive's folder of images.
        annotations: the folder of VOC files beside it.
        every: each so-many-th image goes to validation, the first one included; None: it brings ImageSets/Main.
    """

    name: str
    addresses: tuple[str, ...]
    images: str
    annotations: str
    every: int | None = None

    @property
    def variable(self) -> str:
        """The environment variable that names another address."""
        return f"DDETR_{self.name.upper()}_URL"


NAMED_SETS = {
    # The first is what Azure's samples download today, the second what its older ones did.
    "fridge": NamedSet(
        "fridge",
        (
            "https://automlsamplenotebookdata-adcuc7f7bqhhh8a4.b02.azurefd.net/image-object-detection/odFridgeObjects.zip",
            "https://cvbp-secondary.z19.web.core.windows.net/datasets/object_detection/odFridgeObjects.zip",
        ),
        images="images",
        annotations="annotations",
        every=5,
    ),
    "bccd": NamedSet(
        "bccd",
        ("https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip",),
        images="JPEGImages",
        annotations="Annotations",
    ),
}


@dataclass(frozen=True)
class FetchedSet:
    """What `fetch_named_set` wrote: the folder, whence it came, and the number of images listed in each split."""

    folder: Path
    source: str
    images: int
    splits: dict[str, int]


def fetch_named_set(name: str, folder: Path, source: str | None = None) -> FetchedSet:
    """Downloads a published data set and writes it as a new folder, whole or not at all.

    The folder holds the archive's own images and VOC files in the archive's own layout, its licence, and
    ImageSets/Main/train.txt, val.txt (and test.txt). The fridge set comes without a split: of its images in the order
    that people count (1, 2, ... 10), every 5th goes to validation, beginning with the first, as in Azure's sample.

    Args:
        name: a key of `NAMED_SETS`.
        folder: must not exist, or be empty.
        source: another address, or the archive as a file; by default the environment variable `DDETR_NAME_URL`, else
            the published address.

    Raises:
        OSError: the archive cannot be read, or the folder not written.
        DataError: the folder is not empty, or the archive is refused (see `open_archive`) or is not this set.
    """
    named = NAMED_SETS[name]
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder} exists already; remove it, or choose another place with --output.")
    source = source or os.environ.get(named.variable)
    with new_path(folder) as new:
        new.mkdir()
        # The file has no name: even a killed process leaves no archive behind.
        with tempfile.TemporaryFile(dir=new) as file:
            try:
                source = fetch([source] if source else named.addresses, file)
            except OSError as error:
                raise OSError(f"{error} Name another address, or the archive as a file, with --url.") from error
            with open_archive(file, source) as archive:
                images = _lay_out(archive, named, source, new)
        splits = _listed(new)
    return FetchedSet(folder, source, images, splits)


def _lay_out(archive: zipfile.ZipFile, named: NamedSet, source: str, folder: Path) -> int:
    files = files_of(archive)
    root = _root(files, named)
    if root is None:
        expected = f"folder {named.images} with images beside {named.annotations} with xml files"
        raise DataError(f"{source} is not the {named.name} set: it holds no {expected}.")
    images = [path for path in files if _is_image(path, root / named.images)]
    annotations = [path for path in files if _is_voc(path, root / named.annotations)]
    sets = [path for split in SPLITS if (path := root / LISTS / f"{split}.txt") in files]
    if named.every is None and len(sets) < 2:
        raise DataError(f"{source} is not the {named.name} set: it holds no {LISTS}/train.txt and val.txt.")
    licences = [path for path in files if path.name.startswith("LICENSE") and root.is_relative_to(path.parent)]
    targets = {folder / path.relative_to(root): files[path] for path in images + annotations + sets}
    unpack(archive, targets | {folder / path.name: files[path] for path in licences})
    if named.every is not None:
        stems = sorted((path.stem for path in annotations), key=natural_key)
        _write_list(folder, "val", stems[:: named.every])
        _write_list(folder, "train", [stem for number, stem in enumerate(stems) if number % named.every])
    return len(images)


def _root(files: Iterable[PurePosixPath], named: NamedSet) -> PurePosixPath | None:
    """The uppermost folder that holds both images and VOC files."""
    with_images = {path.parent.parent for path in files if _is_image(path, path.parent.parent / named.images)}
    with_both = {
        path.parent.parent
        for path in files
        if _is_voc(path, path.parent.parent / named.annotations) and path.parent.parent in with_images
    }
    return min(with_both, key=lambda path: (len(path.parts), str(path)), default=None)


def _is_image(path: PurePosixPath, folder: PurePosixPath) -> bool:
    return path.parent == folder and is_image_name(path)


def _is_voc(path: PurePosixPath, folder: PurePosixPath) -> bool:
    return path.parent == folder and path.suffix.lower() == ".xml"


def _write_list(folder: Path, split: str, stems: list[str]) -> None:
    file = folder / LISTS / f"{split}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


def _listed(folder: Path) -> dict[str, int]:
    """How many images the lists name, by split."""
    files = {split: folder / LISTS / f"{split}.txt" for split in SPLITS}
    return {
        split: sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
        for split, file in files.items()
        if file.is_file()
    }


__all__ = ["NAMED_SETS", "FetchedSet", "NamedSet", "fetch_named_set"]
