"""Download a file into the cache: with progress, from where an earlier try stopped, and checked before it is used."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote

from tqdm import tqdm

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import sha256_of
from deformable_detr_refine.modeling.url_io import LONGEST_SILENCE_SECONDS, Deadline, open_url, stated_length

from .cache import cache_folder

MAX_BYTES = 8 * 2**30
# Until the first byte, and from then on as much more as what came took at this rate: a server that drips ends.
PATIENCE_SECONDS = 120.0
LEAST_BYTES_A_SECOND = 2**13
_KEPT = "What came is kept: the same command goes on from there."
# OpenMMLab publishes a file under the beginning of its sha256.
_WITH_DIGEST = re.compile(r".+_\d{8}_\d{6}-([0-9a-f]{8})\.pth")


def download(url: str, sha256: str | None = None) -> Path:
    """The file at an address, in `cache_folder()`; from there without asking the network if it is there already.

    Args:
        url: an http or https URL.
        sha256: how its digest must begin; if None, what a name in OpenMMLab's form says.

    Raises:
        OSError: the address cannot be read; what came is kept for the next try.
        CheckpointError: it is another file, or too long. Nothing of it is kept.
    """
    folder = cache_folder() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    file = folder / _name(url)
    if sha256 is None and (named := _WITH_DIGEST.fullmatch(file.name)):
        sha256 = named[1]
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "lock"):
            if not file.is_file():
                part = folder / f"{file.name}.part"
                part.touch()
                try:
                    _fetch(url, part)
                    part.rename(file)
                finally:
                    if part.is_file() and not part.stat().st_size:
                        part.unlink()
    if sha256 and not (digest := sha256_of(file)).startswith(sha256):
        file.unlink()
        raise CheckpointError(
            f"{url} gives another file than it should: its sha256 begins with {digest[: len(sha256)]}, not {sha256}. "
            "It was not kept."
        )
    return file


def _fetch(url: str, part: Path) -> None:
    """Fills the file, which may hold the beginning already."""
    # Which version of the file the beginning is of: the server then sends the rest of that one, or all of another.
    note = part.with_name(f"{part.name}-version")
    start, version = part.stat().st_size, note.read_text() if note.is_file() else ""
    headers = {"Range": f"bytes={start}-", "If-Range": version} if start and version else {}
    deadline, came = Deadline(PATIENCE_SECONDS), start
    try:
        with open_url(url, deadline, silence=LONGEST_SILENCE_SECONDS, headers=headers) as response:
            if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                start = came = 0
            note.write_text(_version(response.headers))
            length = stated_length(response)
            expected = None if length is None else start + length
            with part.open("r+b") as file, _bar(url, start, expected) as bar:
                file.seek(start)
                file.truncate()
                while block := response.read1(1 << 16):
                    if max(file.tell() + len(block), expected or 0) > MAX_BYTES:
                        raise CheckpointError(f"{url} is longer than {MAX_BYTES / 2**30:.0f} GiB.")
                    file.write(block)
                    bar.update(len(block))
                    came = file.tell()
                    deadline.put_off(PATIENCE_SECONDS + (came - start) / LEAST_BYTES_A_SECOND)
    except CheckpointError:
        part.unlink()
        raise
    except OSError as error:
        if start and isinstance(error.__cause__, HTTPError) and error.__cause__.code == 416:
            # The server has no such range any more: all of it again.
            part.write_bytes(b"")
            return _fetch(url, part)
        if not deadline.left:
            slow = f"{came - start:,} bytes came in {deadline.seconds:.0f} seconds"
            raise OSError(f"{url} cannot be read: {slow}. {_KEPT}") from error
        raise
    if expected is not None and came < expected:
        raise OSError(f"{url} cannot be read: the connection ended after {came} of {expected} bytes. {_KEPT}")
    note.unlink()


def _bar(url: str, start: int, total: int | None) -> tqdm:
    """Drawn on a terminal only."""
    return tqdm(desc=_name(url), initial=start, total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=None)


def _version(headers: Message) -> str:
    """What If-Range takes: an ETag that means the very bytes, else a date."""
    etag = headers.get("ETag") or ""
    return etag if etag.startswith('"') else headers.get("Last-Modified") or ""


def _name(url: str) -> str:
    last = unquote(re.split(r"[?#]", url)[0]).rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", last).lstrip(".")[-150:] or "checkpoint"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Another process that fetches the same waits until this one has finished, or has died."""
    with path.open("ab") as lock:
        with suppress(ImportError):
            import fcntl  # not on Windows

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


__all__ = ["download"]
