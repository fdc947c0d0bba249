"""Small image files that cost a decoder minutes or gigabytes. Benchmarks use them too."""

import io
import struct

from PIL import Image


def jpeg_of_scans(scans: int, side: int = 5000) -> bytes:
    """A grey progressive JPEG that says in each of its scans that no coefficient changes."""
    tables = b"".join(
        # One code, '0', for the one symbol that is used.
        _segment(0xC4, bytes([kind]) + bytes([1] + [0] * 15) + bytes([symbol]))
        for kind, symbol in ((0x00, 0), (0x10, 0xE0))  # DC: no difference; AC: 2 ** 14 blocks and more end here
    )
    head = _segment(0xC0 + 2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])) + _segment(
        0xDB, bytes([0]) + bytes([1] * 64)
    )
    blocks = ((side + 7) // 8) ** 2
    first = _segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])) + bytes((blocks + 7) // 8)
    runs = "".join("0" + format(min(left, 2**15 - 1) - 2**14, "014b") for left in _runs(blocks))
    runs += "1" * (-len(runs) % 8)
    data = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    empty = _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x00])) + data
    return b"\xff\xd8" + head + tables + first + empty * scans + b"\xff\xd9"


def bmp_of_runs(width: int, height: int = 1, data: bytes = b"\1\0\0\0") -> bytes:
    """A run-length BMP; its data are one pixel and the end of the line."""
    palette = bytes(4 * 256)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + palette + data


def gif_of_comments(size: int) -> bytes:
    """A GIF whose comment has so many bytes, in parts of 255."""
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "GIF")
    content = file.getvalue()
    head = 13 + 3 * 2 ** ((content[10] & 7) + 1) if content[10] & 0x80 else 13
    comment = b"!\xfe" + (b"\xff" + b"a" * 255) * (size // 255) + b"\0"
    return content[:head] + comment + content[head:]


def ppm_of_text(side: int) -> bytes:
    """A PPM whose numbers are text."""
    return f"P3 {side} {side} 255\n".encode() + b"1 " * (3 * side * side)


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _runs(blocks: int) -> list[int]:
    """Lengths of runs of blocks that one code can say, 2**14 to 2**15 - 1, of so many blocks or a little more."""
    count = max(blocks // 2**14, 1)
    return [2**14 if count == 1 else blocks // count] * count


__all__ = ["bmp_of_runs", "gif_of_comments", "jpeg_of_scans", "ppm_of_text"]
