"""Reading images: from a path, a URL, bytes or PIL; upright, RGB, and refused when too large or too much work.

transformers' own `load_image` puts no limit on size or time, takes a server's error page for an image, and turns
16 bit images white; hence this one.
"""

import io
import os
import re
from pathlib import Path, PurePath

from PIL import Image

from .image_decoding import MAX_PIXELS, decode
from .image_process import decode_apart, size_apart
from .url_io import copy_url, is_url

MAX_DOWNLOAD_BYTES = 100 * 2**20
TIMEOUT_SECONDS = 30.0
MAX_FILE_BYTES = 2**30

# What the files of these formats are called. HEIF stands here although PIL reads it with a plug-in only: a photo that
# cannot be read is told, never passed over.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs"),
    *(".heic", ".heif"),
)


def load_image(
    source: str | os.PathLike[str] | bytes | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    timeout: float = TIMEOUT_SECONDS,
    max_download_bytes: int = MAX_DOWNLOAD_BYTES,
) -> Image.Image:
    """Reads one image, turns it upright by its EXIF orientation and makes it RGB.

    Args:
        source: a path, an http or https URL, the bytes of an image file, or a PIL image.
        max_pixels: width * height above which the image is refused before it is decoded. The time and the memory that
            decoding may take are in proportion to the pixels; a PIL image is decoded without these two limits.
        timeout: seconds for a whole download.
        max_download_bytes: length above which a download is broken off.

    Returns:
        A decoded PIL image of mode RGB. All boxes of this package count pixels of this upright image.

    Raises:
        OSError: the file or the URL cannot be read (`FileNotFoundError` when there is no such file).
        ValueError: it is no image, a damaged one, one above a limit, one that takes more time or memory than its pixels
            explain, or of a mode that has no range (see `to_rgb`).
        TypeError: the source is none of the kinds above.

    Example:
        >>> from PIL import Image
        >>> load_image(Image.new("L", (40, 30), 7)).getpixel((0, 0))
        (7, 7, 7)
    """
    if isinstance(source, Image.Image):
        return decode(source, "The given image", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode_apart(bytes(source), "The given file", max_pixels)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise TypeError(f"An image is a path, a URL, bytes or a PIL image, not {kind}.")
    if is_url(source):
        content = io.BytesIO()
        copy_url(source, content, timeout=timeout, max_bytes=max_download_bytes)
        return decode_apart(content.getvalue(), source, max_pixels)
    path = _existing(source)
    name = as_text(str(path))
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length > MAX_FILE_BYTES:
            raise ValueError(f"{name} is longer than {MAX_FILE_BYTES / 2**20:.0f} MiB, too long for an image.")
        content = file.read(length + 1)
    return decode_apart(content, name, max_pixels)


def image_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Width and height of the upright image, as `load_image` would give it, from the file's header.

    Args:
        source: a path, or the bytes of an image file.

    Raises:
        OSError, ValueError: it cannot be opened as an image.

    Example:
        >>> from PIL import ExifTags
        >>> file, exif = io.BytesIO(), Image.Exif()
        >>> exif[ExifTags.Base.Orientation] = 6
        >>> Image.new("RGB", (40, 30)).save(file, "JPEG", exif=exif)
        >>> image_size(file.getvalue())
        (30, 40)
    """
    if isinstance(source, bytes):
        return size_apart(source, "The given file")
    path = _existing(source)
    return size_apart(str(path), as_text(str(path)))


def is_image_name(name: str | os.PathLike[str]) -> bool:
    """Whether a file of this name is taken for an image: by its suffix, and hidden files never are.

    Example:
        >>> [is_image_name(name) for name in ("a/cat.JPG", "._cat.jpg", ".DS_Store", "cat.txt")]
        [True, False, False, False]
    """
    name = PurePath(name).name
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def as_text(name: str) -> str:
    """File names as text that every file and table takes: bytes that are no UTF-8 stand as %E9.

    `load_image` takes such a name for the file that it is of.

    Example:
        >>> as_text("caf\\udce9.jpg"), as_text("café.jpg")
        ('caf%E9.jpg', 'café.jpg')
    """
    return re.sub("[\ud800-\udfff]", lambda half: f"%{ord(half[0]) & 0xFF:02X}", name)


def file_of(name: str | os.PathLike[str]) -> Path:
    """The path that `as_text` gave this name for.

    Example:
        >>> file_of("caf%E9.jpg") == Path("caf\\udce9.jpg"), file_of("100%.jpg")
        (True, PosixPath('100%.jpg'))
    """
    path = Path(name)
    if "%" in str(path) and not path.exists():
        return Path(re.sub("%([89A-F][0-9A-F])", lambda byte: chr(0xDC00 + int(byte[1], 16)), str(path)))
    return path


def _existing(source: str | os.PathLike[str]) -> Path:
    path = file_of(source)
    if path.is_dir():
        raise IsADirectoryError(f"{as_text(str(path))} is a folder, not an image.")
    if not path.exists():
        raise FileNotFoundError(f"There is no image file {as_text(str(path))}.")
    if not path.is_file():  # a pipe may never end
        raise OSError(f"{as_text(str(path))} is no file.")
    return path
