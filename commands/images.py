"""Which images a command line means, and under which names their pictures are written."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from glob import has_magic
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .main import messages

LONGEST_NAME = 150  # bytes; file systems take 255, and a number, a suffix and a file being written need room

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".m3u8"),
)


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
    return [image for source in sources for image in _expand(source, [])]


def find_images_and_faults(sources: Sequence[str]) -> tuple[list[str], dict[int, str], list[str]]:
    """The same, where a source that means no image keeps its place.

    Returns:
        The images; what is wrong with some of them, by their number; what else folders and patterns hold.

    Raises:
        FileNotFoundError, ValueError: of the first source, if none means an image.
    """
    images: list[str] = []
    faults: dict[int, Exception] = {}
    left_out: list[str] = []
    for source in sources:
        try:
            images += _expand(source, left_out)
        except (OSError, ValueError) as error:
            faults[len(images)] = error
            images.append(source)
    if faults and len(faults) == len(images):
        raise next(iter(faults.values()))
    return images, {index: str(error) for index, error in faults.items()}, left_out


def is_video(word: str) -> bool:
    """Whether a word of a command line means a video: by its suffix, the number of a camera, or a stream's address.

    Example:
        >>> [is_video(word) for word in ("clip.MP4", "0", "rtsp://camera/1", "https://example.org/a.mp4?b=1", "a.jpg")]
        [True, True, True, True, False]
    """
    word = word.lower()
    if word.isdecimal():
        return not Path(word).exists()
    path = word.partition("?")[0] if "://" in word else word
    return word.startswith(("rtsp://", "rtsps://", "rtmp://")) or path.endswith(VIDEO_SUFFIXES)


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
        stem = re.sub('[\x00-\x1f<>:"/\\\\|?*\ud800-\udfff]', "_", Path(_path_of(image)).stem)
        stem = stem.encode()[:LONGEST_NAME].decode(errors="ignore") or "image"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _path_of(image: str) -> str:
    try:
        return unquote(urlsplit(image).path) if _is_url(image) else image
    except ValueError:  # http://[::1/a.jpg
        return image


def _expand(source: str, left_out: list[str]) -> list[str]:
    path = Path(source)
    if _is_url(source) or path.is_file():
        return [source]
    if path.is_dir():
        try:
            items = [str(item) for item in path.iterdir()]
        except OSError as error:
            raise OSError(f"The folder {source} cannot be listed: {error.strerror or error}.") from error
        if images := _only_images(items, source, left_out):
            return images
        deeper = next(iter(_only_images(map(str, path.rglob("*")), source, [])), None)
        hint = f" Its sub-folders do: give '{path}/**/*{Path(deeper).suffix}'." if deeper else ""
        raise ValueError(f"The folder {source} holds no images.{hint}")
    if has_magic(source):
        from deformable_detr_refine.data.formats.image_files import fitting

        if images := _only_images(fitting(source), source, left_out):
            return images
        raise FileNotFoundError(f"No image fits the pattern {source}.")
    if "%" in source:  # as detections.json names a file whose name is no UTF-8
        from deformable_detr_refine.modeling.image_io import file_of

        if file_of(source).is_file():
            return [source]
    if "://" in source:
        raise ValueError(f"{source} is no address that is read: those that begin with http:// or https:// are.")
    raise FileNotFoundError(f"There is no image or folder {source}{messages()['near'](source)}")


def _only_images(paths: Iterable[str], source: str, left_out: list[str]) -> list[str]:
    """The images among files and folders, sorted; what else is there becomes a sentence."""
    # Here, since a file or a URL that is named needs none of it.
    from deformable_detr_refine.data.formats.image_files import not_images
    from deformable_detr_refine.modeling.image_io import is_image_name

    visible = [path for path in paths if not Path(path).name.startswith(".")]
    folders = {path for path in visible if Path(path).is_dir()}
    files = [path for path in visible if path not in folders]
    images = [path for path in files if is_image_name(path)]
    others = Counter(Path(path).suffix.lower() or Path(path).name for path in files if not is_image_name(path))
    if others:
        left_out.append(f"{source}: {not_images(others)}")
    if folders and not has_magic(source):
        left_out.append(f"{source}: its sub-folders ({len(folders)}) are not looked into, as '{source}/**/*' would")
    return sorted(images, key=natural_key)


def _is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))
