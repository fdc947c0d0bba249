"""Decodes image files that may be hostile: a process that is started by this file's path and can be ended.

Pillow bounds no work: a JPEG of 0.4 MB with thousands of scans, a BMP of 1 kB whose runs jump, a GIF with a comment
of a million parts cost minutes or gigabytes, in code that nothing in its own process can stop. Here the system stops
it: a clock that counts the process's computing, and a bound on its memory, both in proportion to the pixels.

Apart from this package: it needs the standard library and Pillow, and numpy for 16 bits.
"""

import contextlib
import io
import json
import re
import signal
import sys
import warnings
from functools import cache
from importlib import import_module
from typing import IO, Any

from PIL import ExifTags, Image, ImageOps

try:
    import resource
except ImportError:  # Windows, where only the waiting process's clock ends a decoder
    resource = None

# Named one by one: PIL hands other formats to outside programs (EPS to Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF", "HEIF")
# Seconds of computing. Per megapixel, photos took 0.55 as JPEG 2000, 1.5 as a PPM of text, at most 0.03 otherwise.
BASE_SECONDS = 2.0
MOST_SECONDS = 100.0
_SECONDS_A_MEGAPIXEL = 0.2
_OF_SLOW_DECODERS = {"jpeg2k": 2.0, "ppm_plain": 4.0}
# Three copies of four channels, in 16 bits, and numpy.
_BASE_BYTES = 512 * 2**20
_BYTES_A_PIXEL = 24
MAX_PIXELS = 100_000_000
# From here on a pipe takes longer than memory in common: 36 MB of pixels took 80 ms longer.
_MANY_PIXELS = 500_000
# A progressive photo has about 10, and each one walks over all of the picture.
MOST_SCANS = 100
# What a HEIF file begins with, behind four bytes.
_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"))
_HEAD_BYTES = 2**14
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADS = (b"\xff\xd8\xff", _PNG, b"BM")
_PNG_NOTES = re.compile(b"eXIf|[itz][TX]Xt")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def seconds_for(image: Image.Image, pixels: int) -> float:
    """Seconds of computing that an opened image of so many pixels may take."""
    decoders = [tile[0] for tile in getattr(image, "tile", ())]
    rate = max([_SECONDS_A_MEGAPIXEL, *(_OF_SLOW_DECODERS.get(decoder, 0.0) for decoder in decoders[:1])])
    return min(BASE_SECONDS + rate * pixels / 1e6, MOST_SECONDS)


def open_image(file: IO[bytes], name: str) -> Image.Image:
    """An image whose header was read.

    Raises:
        ValueError: it is none, or a damaged one.
    """
    try:
        with warnings.catch_warnings():
            # PIL warns from 89 megapixels on; the limit here is `max_pixels`.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=_formats())
    except Image.UnidentifiedImageError as error:
        file.seek(4)
        if file.read(8) in _HEIF and "HEIF" not in _formats():
            text = (
                f"{name} is a HEIF photo, which PIL reads with a plug-in: pip install pillow-heif, or save it as JPEG."
            )
            raise ValueError(text) from error
        raise ValueError(f"{name} is not an image of a known format ({', '.join(_formats())}).") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is larger than PIL allows: {error}.") from error
    except MemoryError:
        raise
    except Exception as error:  # PIL's readers raise many kinds on damaged headers
        raise ValueError(f"{name} cannot be read as an image: {error}.") from error


def decode(image: Image.Image, name: str, max_pixels: int, in_place: bool = False) -> Image.Image:
    """The pixels of an opened image, upright and RGB.

    Args:
        image: as `open_image` gives it, or anybody's.
        name: for errors.
        max_pixels: width * height above which it is refused.
        in_place: whether it may be changed, which saves a copy.

    Raises:
        ValueError: it is damaged, above the limit, or of a mode that has no range.
    """
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
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise many kinds on damaged data
        raise ValueError(f"{name} is damaged: {error}.") from error
    try:
        upright = ImageOps.exif_transpose(image, in_place=in_place) or image
    except Exception:  # damaged EXIF data does not make the pixels unreadable
        upright = image if in_place else image.copy()
    try:
        return to_rgb(upright)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image that was opened and not decoded yet, as it will be when turned upright."""
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


def size_in_head(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height of the upright image in a JPEG, PNG or BMP that says them near its beginning; None for others.

    So little of a file takes Pillow little, whatever it holds, so no process is needed.
    """
    head = file.read(_HEAD_BYTES)
    if not head.startswith(_HEADS):
        return None
    # A PNG may say after its pixels how it lies, and these bytes are hardly ever there by chance.
    png = head.startswith(_PNG)
    if png and _PNG_NOTES.search(head + file.read()):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(head), formats=("JPEG", "PNG", "BMP"))
    except Exception:  # there is more of the head, or the process tells what is wrong
        return None
    return image.size if png else upright_size(image)


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
        import numpy as np

        upper = np.asarray(image.convert("I")).clip(0, 65535) >> 8
        return Image.fromarray(upper.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("An image of floats (mode F) has no fixed range: scale it to 0..255 and make it L or RGB.")
    if image.mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")  # PIL has no direct way from RGBa, and warns on palettes with transparency
    elif image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")


def refuse_bomb(content: bytes, name: str) -> None:
    """Refuses at once what is known to cost much and is no photo; the limits of the process hold whatever is not.

    Raises:
        ValueError: it is a JPEG of too many scans, or a run-length BMP of which most is jumped over.
    """
    if content.startswith(b"\xff\xd8"):
        # At most so many, since it counts what looks so within metadata too; the precise count takes longer.
        if content.count(b"\xff\xda") > MOST_SCANS and (scans := jpeg_scans(content)) > MOST_SCANS:
            raise ValueError(f"{name} is a JPEG of {scans} scans, the limit is {MOST_SCANS}: save it anew.")
    elif content.startswith(b"BM") and content[30:34] in (b"\x01\0\0\0", b"\x02\0\0\0"):
        width, height = (abs(int.from_bytes(content[at : at + 4], "little", signed=True)) for at in (18, 22))
        if width * height > 255 * len(content):  # a run is two bytes and 255 pixels at most
            raise ValueError(f"{name} is a run-length BMP that lacks most of its pixels: save it anew.")


def jpeg_scans(content: bytes) -> int:
    """How many scans a JPEG has, those of previews in its metadata left out.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (40, 30)).save(file, "JPEG", progressive=True)
        >>> jpeg_scans(file.getvalue())
        10
    """
    scans, at = 0, 2
    while marker := re.compile(b"\xff+([^\0\xff\xd0-\xd9])", re.DOTALL).search(content, at):
        scans += marker[1] == b"\xda"
        # A segment says its length, the scan's data after it ends at the next marker.
        at = marker.end() + max(int.from_bytes(content[marker.end() : marker.end() + 2], "big"), 2)
    return scans


def main(shared: str | None = None) -> None:
    """Answers requests on standard input until it ends.

    A request is a line of JSON (length, name, max_pixels) and so many bytes of a file; an answer is a line of JSON
    (size and length, or error) and so many bytes of pixels. Without max_pixels the size alone is asked for; then there
    may be a path in the place of the bytes. Many pixels are written as a PPM into memory, whose descriptor is `shared`.
    """
    memory = None if shared is None else open(int(shared), "wb", buffering=0)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it
    with contextlib.suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    Image.init()
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["length"])
        answer, pixels = _answer(request, content, memory)
        _limit(None, None)
        content = b""
        answers.write(json.dumps(answer | {"length": len(pixels)}).encode() + b"\n")
        answers.write(pixels)
        answers.flush()


def _answer(request: dict[str, Any], content: bytes, memory: IO[bytes] | None) -> tuple[dict[str, Any], bytes]:
    name, max_pixels, most = request["name"], request.get("max_pixels"), _own_bytes() + _BASE_BYTES + 2 * len(content)
    _limit(BASE_SECONDS, most)
    try:
        file = open(request["path"], "rb") if request.get("path") else io.BytesIO(content)  # noqa: SIM115
        with file, open_image(file, name) as image:
            if max_pixels is not None:
                refuse_bomb(content, name)
            pixels = min(image.width * image.height, max_pixels or MAX_PIXELS)
            _limit(seconds_for(image, pixels), most + _BYTES_A_PIXEL * pixels)
            if max_pixels is None:
                return {"size": upright_size(image)}, b""
            upright = decode(image, name, max_pixels, in_place=True)
            if memory is None or upright.width * upright.height < _MANY_PIXELS:
                return {"size": upright.size}, upright.tobytes()
            memory.seek(0)
            upright.save(memory, "PPM")
            return {"size": upright.size, "memory": memory.tell()}, b""
    except (ValueError, OSError) as error:
        return {"error": str(error)}, b""
    except MemoryError:
        return {"error": f"{name} takes more memory to decode than a picture of its size should: save it anew."}, b""


def _limit(seconds: float | None, size: int | None) -> None:
    """Bounds this process's computing, which ends it, and its memory, which raises; None lifts a bound."""
    if resource is not None:
        signal.setitimer(signal.ITIMER_PROF, seconds or 0)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = hard if size is None else size if hard == resource.RLIM_INFINITY else min(size, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS knows no such bound
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@cache
def _own_bytes() -> int:
    """What is mapped before the first image, by Python and by whatever is loaded into it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize() if resource is not None else 0
    except OSError:
        return 0


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


if __name__ == "__main__":
    main(*sys.argv[1:])
