"""Reading images: from a path, a URL, bytes or PIL; upright, RGB, and refused when too large.

transformers' own `load_image` puts no limit on size or time, takes a server's error page for an image, and turns
16 bit images white; hence this one.
"""

import io
import os
import re
import warnings
from functools import cache
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .url_io import copy_url, is_url

MAX_PIXELS = 100_000_000
MAX_DOWNLOAD_BYTES = 100 * 2**20
TIMEOUT_SECONDS = 30.0

# Named one by one: PIL hands other formats to outside programs (EPS to Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF", "HEIF")
# What the files of these formats are called. HEIF stands here although PIL reads it with a plug-in only: a photo that
# cannot be read is told, never passed over.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs"),
    *(".heic", ".heif"),
)
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def load_image(
    source: str | os.PathLike | bytes | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    timeout: float = TIMEOUT_SECONDS,
    max_download_bytes: int = MAX_DOWNLOAD_BYTES,
) -> Image.Image:
    """Reads one image, turns it upright by its EXIF orientation and makes it RGB.

    Args:
        source: a path, an http or https URL, the bytes of an image file, or a PIL image.
        max_pixels: width * height above which the image is refused before it is decoded.
        timeout: seconds for a whole download.
        max_download_bytes: length above which a download is broken off.

    Returns:
        A decoded PIL image of mode RGB. All boxes of this package count pixels of this upright image.

    Raises:
        OSError: the file or the URL cannot be read (`FileNotFoundError` when there is no such file).
        ValueError: it is no image, a damaged one, one above a limit, or of a mode that has no range (see `to_rgb`).
        TypeError: the source is none of the kinds above.

    Example:
        >>> from PIL import Image
        >>> load_image(Image.new("L", (40, 30), 7)).getpixel((0, 0))
        (7, 7, 7)
    """
    if isinstance(source, Image.Image):
        return _decode(source, "The given image", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        with _opened(io.BytesIO(source), "The given file") as image:
            return _decode(image, "The given file", max_pixels)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise TypeError(f"An image is a path, a URL, bytes or a PIL image, not {kind}.")
    if is_url(source):
        content = io.BytesIO()
        copy_url(source, content, timeout=timeout, max_bytes=max_download_bytes)
        content.seek(0)
        with _opened(content, source) as image:
            return _decode(image, source, max_pixels)
    path = _existing(source)
    name = as_text(str(path))
    with path.open("rb") as file, _opened(file, name) as image:
        return _decode(image, name, max_pixels)


def image_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Width and height of the upright image, as `load_image` would give it, from the file's header.

    Args:
        source: a path, or the bytes of an image file.

    Raises:
        OSError, ValueError: it cannot be opened as an image.

    Example:
        >>> file, exif = io.BytesIO(), Image.Exif()
        >>> exif[ExifTags.Base.Orientation] = 6
        >>> Image.new("RGB", (40, 30)).save(file, "JPEG", exif=exif)
        >>> image_size(file.getvalue())
        (30, 40)
    """
    if isinstance(source, bytes):
        with _opened(io.BytesIO(source), "The given file") as image:
            return _upright_size(image)
    path = _existing(source)
    with path.open("rb") as file, _opened(file, as_text(str(path))) as image:
        return _upright_size(image)


def is_image_name(name: str | os.PathLike) -> bool:
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


def file_of(name: str | os.PathLike) -> Path:
    """The path that `as_text` gave this name for.

    Example:
        >>> file_of("caf%E9.jpg") == Path("caf\\udce9.jpg"), file_of("100%.jpg")
        (True, PosixPath('100%.jpg'))
    """
    path = Path(name)
    if "%" in str(path) and not path.exists():
        return Path(re.sub("%([89A-F][0-9A-F])", lambda byte: chr(0xDC00 + int(byte[1], 16)), str(path)))
    return path


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns a PIL image of any mode into RGB, the way a person who opens the file sees it.

    Transparency is dropped (colours stay, as with PIL's `convert`). 16 bit images keep their upper 8 bits, as OpenCV
    and so MMDetection read them; PIL's `convert` would turn everything above 255 white.

    Raises:
        ValueError: the mode is F, which has no fixed range.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> grey = Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16))
        >>> grey.mode, [to_rgb(grey).getpixel((x, 0))[0] for x in range(4)]
        ('I;16', [0, 0, 1, 255])
    """
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # PIL opens 16 bit files as "I" or "I;16", by format and release.
        upper = np.asarray(image.convert("I")).clip(0, 65535) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("An image of floats (mode F) has no fixed range: scale it to 0..255 and make it L or RGB.")
    if image.mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")  # PIL has no direct way from RGBa, and warns on palettes with transparency
    elif image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")


def _existing(source: str | os.PathLike) -> Path:
    path = file_of(source)
    if path.is_dir():
        raise IsADirectoryError(f"{as_text(str(path))} is a folder, not an image.")
    if not path.exists():
        raise FileNotFoundError(f"There is no image file {as_text(str(path))}.")
    if not path.is_file():  # a pipe may never end
        raise OSError(f"{as_text(str(path))} is no file.")
    return path


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Of an image that was opened and not decoded yet."""
    if image.format == "TIFF" and ExifTags.Base.Orientation in getattr(image, "tag_v2", ()):
        return image.size  # PIL has turned it already
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data
            sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except Exception:  # damaged EXIF data does not make the pixels unreadable
        sideways = False
    width, height = image.size
    return (height, width) if sideways else (width, height)


def _opened(file: IO[bytes], name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # PIL warns from 89 megapixels on; the limit here is `max_pixels`.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=_formats())
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image of a known format ({', '.join(_formats())}).") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is larger than PIL allows: {error}.") from error
    except Exception as error:  # PIL's readers raise many kinds on damaged headers
        raise ValueError(f"{name} cannot be read as an image: {error}.") from error


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name} has {width}x{height} = {width * height / 1e6:.1f} megapixels, the limit is "
            f"{max_pixels / 1e6:.1f}: make it smaller, or raise max_pixels."
        )
    if width == 0 or height == 0:
        raise ValueError(f"{name} is empty ({width}x{height}).")
    try:
        image.load()
    except Exception as error:  # PIL's decoders raise many kinds on damaged data
        raise ValueError(f"{name} is damaged: {error}.") from error
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data does not make the pixels unreadable
        upright = image.copy()
    try:
        return to_rgb(upright)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
