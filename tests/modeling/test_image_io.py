"""Images of every kind come out upright and RGB; what is none, too large or damaged is refused in one sentence."""

import contextlib
import importlib.util
import io
import socket
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from support.http_server import serving

from deformable_detr_refine.modeling.image_decoding import FORMATS, to_rgb
from deformable_detr_refine.modeling.image_io import as_text, image_size, is_image_name, load_image

SAMPLES = Path(__file__).parents[2] / "samples" / "images"
ORIENTATION_TAG = 0x0112
ROTATED_BY_CAMERA = 6


def gradient(width=24, height=16) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def test_path_bytes_url_and_pil_give_the_same_pixels(tmp_path):
    content = encoded(gradient())
    file = tmp_path / "with blank é.png"
    file.write_bytes(content)
    with serving({"/a%20b.png": content, "/moved/a.png": content}, {"/old": "/moved/a.png"}) as address:
        sources = [file, str(file), content, bytearray(content), gradient(), f"{address}/a b.png", f"{address}/old"]
        images = [load_image(source) for source in sources]
    for image in images:
        assert image.mode == "RGB"
        assert np.array_equal(image, gradient())


def test_a_file_is_closed_and_its_image_decoded(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(gradient()))
    image = load_image(file)
    file.unlink()
    assert image.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_once(orientation, tmp_path):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # what the camera stores; the reader turns it back by 270 degrees
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = gradient() if orientation == 1 else gradient().transpose(turns[orientation])
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    image = load_image(encoded(stored, exif=exif))
    assert np.array_equal(image, gradient())
    assert np.array_equal(load_image(image), gradient())


WITH_EXIF = ["JPEG", "PNG", "WEBP", "TIFF", "MPO", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("format", WITH_EXIF)
def test_the_size_from_the_header_is_the_size_of_the_loaded_image(format, orientation, tmp_path):
    """Orientations 0 and 9 do not exist; PIL itself turns TIFF, and AVIF has turns of its own."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    options = {"save_all": True, "append_images": [gradient()]} if format == "MPO" else {}
    content = encoded(gradient(), format, exif=exif, **options)
    file = tmp_path / "a.img"
    file.write_bytes(content)
    expected = (16, 24) if 5 <= orientation <= 8 else (24, 16)
    assert image_size(content) == image_size(file) == load_image(content).size == expected


def test_the_orientation_may_stand_behind_the_pixels_or_in_xmp():
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = ROTATED_BY_CAMERA
    content = encoded(gradient(), exif=exif)
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    last = content.index(b"IEND") - 4
    behind = content[:start] + content[end:last] + content[start:end] + content[last:]
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    in_xmp = [encoded(gradient(), "JPEG", xmp=xmp), encoded(gradient(), "TIFF", tiffinfo={700: xmp})]
    for content in (behind, encoded(gradient(), "WEBP", xmp=xmp), *in_xmp):
        assert image_size(content) == load_image(content).size == (16, 24)


@pytest.mark.parametrize("format", ["BMP", "GIF", "PPM", "JPEG2000"])
def test_the_size_of_formats_without_orientation(format):
    content = encoded(gradient(), format)
    assert image_size(content) == load_image(content).size == (24, 16)


def test_what_is_no_image_has_no_size(tmp_path):
    (tmp_path / "a.jpg").write_text("a text")
    for source, error in ((b"a text", ValueError), (tmp_path / "a.jpg", ValueError), (tmp_path / "b.jpg", OSError)):
        with pytest.raises(error):
            image_size(source)


def test_every_suffix_of_a_format_that_is_read_is_an_image():
    """But .pfm, whose images of floats have no range."""
    known = {suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS}
    assert [suffix for suffix in sorted(known) if not is_image_name(f"a{suffix.upper()}")] == [".pfm"]


def test_a_name_that_is_no_utf_8(tmp_path):
    name = "caf\udce9 100%.png"
    (tmp_path / name).write_bytes(encoded(gradient()))
    text = as_text(str(tmp_path / name))
    assert text.endswith("caf%E9 100%.png")
    assert load_image(text).size == image_size(text) == load_image(tmp_path / name).size
    with pytest.raises(FileNotFoundError) as caught:
        load_image(tmp_path / "caf\udce9")
    str(caught.value).encode()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_make_an_image_unreadable():
    content = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff damaged")
    assert load_image(content).size == image_size(content) == (24, 16)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I"]
)
def test_every_mode_becomes_rgb_without_a_warning(mode):
    image = gradient().convert("RGBA").convert("RGBa") if mode == "RGBa" else _in_mode(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rgb = to_rgb(image)
    assert (rgb.mode, rgb.size) == ("RGB", (24, 16))


def _in_mode(mode: str) -> Image.Image:
    return gradient().convert("P").convert("PA") if mode == "PA" else gradient().convert(mode)


def test_transparency_is_dropped_and_colours_stay():
    image = gradient().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 3))
    assert np.array_equal(to_rgb(image), gradient())


def test_a_palette_with_transparency_keeps_its_colours():
    image = gradient().quantize(16)
    assert image.mode == "P"
    expected = np.asarray(image.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(encoded(image, transparency=bytes(range(16))))
    assert np.array_equal(loaded, expected)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_8_bits(format):
    values = np.array([[0, 255, 256, 32767, 32768, 65279, 65280, 65535]], np.uint16)
    loaded = load_image(encoded(Image.fromarray(values), format))
    assert np.array_equal(np.asarray(loaded), np.repeat((values >> 8)[..., None], 3, axis=-1))


def test_16_bit_portable_greymap(tmp_path):
    file = tmp_path / "a.pgm"
    file.write_bytes(b"P5 2 1 65535\n" + bytes([0x80, 0x12, 0xFF, 0xFF]))
    assert [load_image(file).getpixel((x, 0)) for x in range(2)] == [(128,) * 3, (255,) * 3]


def test_floats_have_no_range_and_are_refused():
    with pytest.raises(ValueError, match="The given image: An image of floats"):
        load_image(Image.new("F", (4, 4)))


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*.jpg")), ids=lambda file: file.name)
def test_cmyk_jpeg_looks_as_its_rgb_original(file):
    original = Image.open(file)
    loaded = load_image(encoded(original.convert("CMYK"), "JPEG", quality=95))
    difference = np.abs(np.asarray(loaded, np.int16) - np.asarray(original, np.int16))
    assert difference.mean() < 3


def png_without_pixels(width: int, height: int) -> bytes:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", b""))
    framed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_the_pixel_limit_holds_before_decoding():
    with pytest.raises(ValueError, match=r"400x300 = 0\.1 megapixels, the limit is 0\.1"):
        load_image(png_without_pixels(400, 300), max_pixels=100_000)
    assert load_image(gradient(400, 300), max_pixels=120_000).size == (400, 300)


@pytest.mark.parametrize(
    ("side", "message"), [(11_000, r"121\.0 megapixels, the limit is 100\.0"), (100_000, "larger than PIL allows")]
)
def test_decompression_bombs_are_refused(side, message):
    with pytest.raises(ValueError, match=message):
        load_image(png_without_pixels(side, side))


BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "web page": b"<!doctype html><title>404</title>",
    "truncated jpeg": encoded(gradient(200, 200), "JPEG")[:600],
    "truncated png": encoded(gradient(200, 200))[:400],
    "noise after a header": encoded(gradient(), "JPEG")[:30] + bytes(range(256)),
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_files_are_refused_by_name(content, tmp_path):
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg (is|cannot)"):
        load_image(file)


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_a_heif_photo_names_the_plug_in_that_reads_it():
    with pytest.raises(ValueError, match="is a HEIF photo, which PIL reads with a plug-in: pip install pillow-heif"):
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))


def test_postscript_never_reaches_another_program(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match="not an image of a known format"):
        load_image(file)


def test_missing_files_folders_and_other_objects(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no image file .*none\.jpg"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(OSError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(TypeError, match="not int"):
        load_image(3)
    with pytest.raises(FileNotFoundError):
        load_image("file:///etc/hostname")


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("/none.jpg", {}, "the server answers 404 Not Found"),
        ("/large", {"max_download_bytes": 1000}, "the download was broken off"),
        ("/drip", {"timeout": 0.5}, r"not finished within 0\.5 seconds"),
        ("/short", {}, "the connection ended after 9 of 1000 bytes"),
        ("/short-chunk", {}, "the connection ended early"),
        ("/no-http", {}, r"cannot be read: the server does not answer in HTTP\.$"),
        ("/page", {}, "not an image of a known format"),
        ("/to-file", {}, "'file:///etc/hostname' is not allowed"),
        ("/to-ftp", {}, "redirects to ftp, only http and https"),
    ],
)
def test_downloads_that_go_wrong(path, options, message):
    redirects = {"/to-file": "file:///etc/hostname", "/to-ftp": "ftp://127.0.0.1/a.jpg"}
    with (
        serving({"/large": bytes(5000), "/page": b"<html>"}, redirects) as address,
        pytest.raises((OSError, ValueError), match=message),
    ):
        load_image(address + path, **options)


def test_no_server_there():
    with serving({}) as address:
        pass
    with pytest.raises(OSError, match="cannot be read"):
        load_image(f"{address}/a.jpg")
    with pytest.raises((OSError, ValueError)):
        load_image("http://")


def _drip(start: bytes, again: bytes):
    def send(connection):
        connection.sendall(start)
        while True:
            time.sleep(0.05)
            connection.sendall(again)

    return send


def _redirect(connection):
    time.sleep(0.1)
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /%d\r\nContent-Length: 0\r\n\r\n" % time.time_ns())


SLOW = {
    "head": _drip(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "continue": _drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk size": _drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "body": _drip(b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
    "redirects": _redirect,
    "silence": lambda connection: time.sleep(5),
}


@pytest.mark.parametrize("send", SLOW.values(), ids=SLOW)
def test_a_download_ends_at_its_deadline_whatever_the_server_does(send):
    def answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(1000)
            send(connection)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(OSError, match=r"not finished within 0\.3 seconds"):
            load_image(f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg", timeout=0.3)
