"""Which images a command line means, and under which names their pictures are written."""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from urllib.parse import unquote, urlsplit

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".jp2", ".avif", ".heic", ".heif"),
}


def find_images(sources: Sequence[str]) -> list[str]:
    """The images meant by files, folders, glob patterns and URLs, in the order given.

    A folder stands for the images directly in it; folders and patterns are sorted as people count (2 before 10).

    Raises:
        FileNotFoundError: a source does not exist, or a pattern fits nothing.
        ValueError: a folder holds no images.

    Example:
        >>> find_images(["https://example.org/a.jpg"])
        ['https://example.org/a.jpg']
    """
    return [image for source in sources for image in _expand(source)]


def natural_key(name: str) -> tuple:
    """A sort key by which numbers in names count as numbers.

    Example:
        >>> sorted(["b10.jpg", "B2.jpg", "a.jpg"], key=natural_key)
        ['a.jpg', 'B2.jpg', 'b10.jpg']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)), name


def picture_names(images: Sequence[str]) -> list[str]:
    """A file name without suffix for each image, all different, whatever the file system thinks of capitals.

    Example:
        >>> picture_names(["x/cat.jpg", "y/cat.png", "https://example.org/big%20dog.jpg?size=2"])
        ['cat', 'cat_2', 'big dog']
    """
    taken: set[str] = set()
    names = []
    for image in images:
        stem = Path(unquote(urlsplit(image).path) if _is_url(image) else image).stem
        stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", stem)[:100] or "image"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _expand(source: str) -> list[str]:
    path = Path(source)
    if _is_url(source) or path.is_file():
        return [source]
    if path.is_dir():
        if found := _only_images(str(file) for file in path.iterdir()):
            return found
        deeper = next((file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES), None)
        hint = f" Its sub-folders do: give '{path}/**/*{deeper.suffix}'." if deeper else ""
        raise ValueError(f"The folder {source} holds no images.{hint}")
    if has_magic(source):
        if found := _only_images(glob(source, recursive=True)):
            return found
        raise FileNotFoundError(f"No image fits the pattern {source}.")
    raise FileNotFoundError(f"There is no image or folder {source}.")


def _only_images(paths) -> list[str]:
    images = (path for path in paths if Path(path).suffix.lower() in SUFFIXES and not Path(path).name.startswith("."))
    return sorted((path for path in images if Path(path).is_file()), key=natural_key)


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))
