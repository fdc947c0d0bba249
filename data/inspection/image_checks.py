"""What only the images themselves tell: damaged, of another size than stated, the same image twice, not listed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling.image_io import as_text, file_of, is_image_name, load_image
from deformable_detr_refine.modeling.url_io import is_url

from ..defects import UNREADABLE_IMAGE, Defect
from ..detection_data import DetectionData
from ..formats.image_files import natural_key

if TYPE_CHECKING:
    import datasets

OTHER_SIZE = "other size than stated"
SAME_IMAGE = "same image twice"
LEAK = "same image in two splits"
NOT_LISTED = "image not listed"

MOST_THREADS = 16
AT_A_TIME = 2048


@dataclass(frozen=True)
class DecodedImage:
    """What is kept of an image that was decoded; `digest` is of its pixels, None when it cannot be read."""

    split: str
    file_name: str
    where: str
    digest: bytes | None
    defect: Defect | None


def check_images(data: DetectionData, progress: bool = False) -> list[Defect]:
    """Decodes every image once, in threads, and tells what is wrong.

    Two images are the same when their upright pixels are, whatever their files are called and say beside.

    Returns:
        Defects in the order of the images: those that cannot be decoded, are of another size than the annotation
        states, are in their split twice, or in another split too.
    """
    rows = [(name, dataset, index) for name, dataset in data.splits.items() for index in range(len(dataset))]
    defects, first = [], {}
    for image in decoded_images(rows, data.source, progress):
        if image.defect is not None:
            defects.append(image.defect)
        if image.digest is not None and (other := first.setdefault(image.digest, image)) is not image:
            defects.append(_twice(image, other))
    return defects


def decoded_images(
    rows: Sequence[tuple[str, "datasets.Dataset", int]], source: str, progress: bool = False
) -> Iterator[DecodedImage]:
    """Decodes each of (split, its rows, index) once, in threads; they come in this order."""
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            decoded = (
                image
                for start in range(0, len(rows), AT_A_TIME)  # a future for each of COCO's images would take 100 MB
                for image in pool.map(lambda row: _decode(source, *row), rows[start : start + AT_A_TIME])
            )
            yield from tqdm(decoded, "checking images", len(rows), unit="image", disable=None if progress else True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def unlisted_images(data: DetectionData) -> Iterator[Defect]:
    """Images that lie beside listed ones in a folder, and that no annotation names.

    Args:
        data: with all of its splits.
    """
    listed: dict[str, set[str]] = {}
    for dataset in data.splits.values():
        for image in dataset.select_columns("image")["image"]:
            if image["path"] and image["bytes"] is None and not is_url(image["path"]):
                folder, name = os.path.split(os.path.abspath(image["path"]))
                listed.setdefault(folder, set()).add(name)
    # An image with a defect was left out, but it was listed; that of an unreadable VOC file is known without suffix.
    named = {os.path.splitext(os.path.basename(defect.image))[0] for defect in data.defects}
    for folder in sorted(listed, key=natural_key):
        names = {as_text(item.name) for item in os.scandir(file_of(folder)) if is_image_name(item.name)}
        for name in sorted(names - listed[folder], key=natural_key):
            if os.path.splitext(name)[0] not in named:
                text = "no annotation names this image"
                yield Defect(
                    NOT_LISTED, _place(os.path.join(folder, name), data.source), printable(name), text, loses=""
                )


def _decode(source: str, split: str, dataset: "datasets.Dataset", index: int) -> DecodedImage:
    row = dataset[index]
    image, name = row["image"], printable(row["file_name"])
    where = f"{split}, image {index}" if image["bytes"] is not None else _place(image["path"], source)
    try:
        picture = load_image(image["path"] if image["bytes"] is None else image["bytes"])
    except (OSError, ValueError) as error:
        text = str(error).rstrip(".")
        for own_name in (str(image["path"]), "The given file"):
            text = f"the file{text.removeprefix(own_name)}" if text.startswith(own_name) else text
        return DecodedImage(
            split, name, where, None, Defect(UNREADABLE_IMAGE, where, name, printable(text, 200), "image")
        )
    defect = None
    if picture.size != (row["width"], row["height"]):
        stated, size = f"{row['width']}x{row['height']}", f"{picture.width}x{picture.height}"
        text = f"the annotation states {stated}, the upright image is {size}: its boxes may be elsewhere"
        defect = Defect(OTHER_SIZE, where, name, text, loses="")
    digest = hashlib.blake2b(repr(picture.size).encode(), digest_size=16)
    digest.update(picture.tobytes())
    return DecodedImage(split, name, where, digest.digest(), defect)


def _twice(image: DecodedImage, other: DecodedImage) -> Defect:
    if image.split == other.split:
        return Defect(SAME_IMAGE, image.where, image.file_name, f"it is the same image as {other.where}", loses="")
    text = f"this image of {image.split} is the same as {other.where} of {other.split}"
    return Defect(LEAK, image.where, image.file_name, text, loses="")


def _place(path: str, source: str) -> str:
    """A path the way the user named the data set."""
    within = os.path.relpath(path, source) if os.path.isdir(source) and not is_url(path) else ".."
    return path if within.startswith("..") else os.path.join(source, within)


__all__ = ["LEAK", "NOT_LISTED", "OTHER_SIZE", "SAME_IMAGE", "check_images", "decoded_images", "unlisted_images"]
