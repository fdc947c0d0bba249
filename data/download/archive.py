"""Zip archives from elsewhere: every entry is checked before the first one is unpacked."""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from deformable_detr_refine.messages import printable

from ..defects import DataError

MAX_UNPACKED_BYTES = 4 * 2**30
MAX_ENTRIES = 100_000


@contextmanager
def open_archive(file: BinaryIO, name: str) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive of which every entry may be unpacked.

    Args:
        file: the archive, open for reading.
        name: what errors call it, its address for example.

    Raises:
        DataError: it is no zip archive or cut short; an entry leads out of the folder (`..`, an absolute path, a
            link), occurs twice, is encrypted or packed in an unusual way; or it would unpack to more than 4 GiB or
            100,000 files. Errors of reading inside the block become this one too.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check(archive.infolist(), name)
            yield archive
    except zipfile.BadZipFile as error:
        raise DataError(f"{name} is not a zip archive, or it is damaged or cut short: {error}.") from error
    except (zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{name} is damaged, or packed in an unknown way: {error}.") from error


def files_of(archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of an archive by their path, without hidden ones and what macOS adds."""
    paths = {PurePosixPath(info.filename): info for info in archive.infolist() if not info.is_dir()}
    return {
        path: info
        for path, info in paths.items()
        if path.parts[0] != "__MACOSX" and not any(part.startswith(".") for part in path.parts)
    }


def unpack(archive: zipfile.ZipFile, targets: Mapping[Path, zipfile.ZipInfo]) -> None:
    """Writes entries of a checked archive to new files; zipfile checks that each has its stated length and CRC."""
    for target, info in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


def _check(entries: list[zipfile.ZipInfo], name: str) -> None:
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"{name} is refused: it holds {len(entries):,} files, the limit is {MAX_ENTRIES:,}.")
    if (total := sum(entry.file_size for entry in entries)) > MAX_UNPACKED_BYTES:
        limit = MAX_UNPACKED_BYTES / 2**30
        raise DataError(f"{name} is refused: it would unpack to {total / 2**30:.1f} GiB, the limit is {limit:g}.")
    seen: set[str] = set()
    for entry in entries:
        # Some file systems take two names that differ in capitals for one.
        folded = entry.filename.rstrip("/").casefold()
        fault = _fault(entry) or ("occurs twice" if folded in seen else None)
        if fault:
            raise DataError(f"{name} is refused: its entry {printable(entry.orig_filename)} {fault}.")
        seen.add(folded)


def _fault(entry: zipfile.ZipInfo) -> str | None:
    path = entry.orig_filename
    if not path.strip("/") or any(ord(letter) < 32 for letter in path):
        return "has no proper name"
    if path.startswith("/") or "\\" in path or re.match(r"[A-Za-z]:", path):
        return "has an absolute path, or one with backslashes"
    if ".." in PurePosixPath(path).parts:
        return "leads out of the folder"
    # The upper half holds the mode of Unix; archives made elsewhere leave it 0.
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in an unusual way"
    return None


__all__ = ["files_of", "open_archive", "unpack"]
