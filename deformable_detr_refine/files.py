"""Files written whole or not at all, and what a file is by its first bytes."""

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import CheckpointError

# What converting writes, custom code for the Hub included; --force replaces a folder that holds nothing else.
_WRITTEN = (".json", ".safetensors", ".md", ".py", "__pycache__")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
TORCH_WRITES = ("inline_container", "iostream")  # in what PyTorch says where it could not
_LITTLE = 2**20  # bytes: a disk with fewer is the full one

_OTHER_FILES = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"<!doctype", "is a web page, not a checkpoint: download it again"),
    (b"<html", "is a web page, not a checkpoint: download it again"),
    (b"<?xml", "is an XML document, not a checkpoint: download it again"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"\x89hdf", "is an HDF5 file (Keras?), not a checkpoint of PyTorch"),
)


def check_writable(folder: Path, option: str = "") -> None:
    """Check, before any work, that files can be written in a folder; in one yet to be made, where it would stand.

    Args:
        option: what a command calls it, in the message.

    Raises:
        OSError: they cannot, or a file has its name.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is a file")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        where = f"{option} {folder}".strip()
        raise OSError(f"Nothing can be written in {where}: {error.strerror or error}.") from error


def check_new_folder(path: Path, force: bool, source: str | Path) -> None:
    """Check, before any work, that a folder may be written at this path.

    Args:
        source: what it is to be made of, a folder or anything else.

    Raises:
        OSError: nothing can be written there.
        CheckpointError: something is there already. With `force`, only if it is the source, or more than an earlier
            model folder.
    """
    check_writable(path.parent)
    if not path.exists() and not path.is_symlink():
        return
    if os.path.exists(source) and path.exists() and path.samefile(source):
        raise CheckpointError(f"{path} is what is read; choose another output.")
    if not path.is_dir():
        raise CheckpointError(f"{path} exists and is not a folder; choose another output.")
    if not (held := sorted(item.name for item in path.iterdir())):
        return
    if not force:
        raise CheckpointError(f"{path} exists and is not empty; choose another output or replace it with --force.")
    others = [name for name in held if not name.endswith(_WRITTEN)]
    if "config.json" not in held or others:
        raise CheckpointError(
            f"{path} is more than an earlier model folder ({', '.join((others or held)[:3])}); --force keeps off it."
        )


def check_new_file(path: Path, force: bool) -> None:
    """Check, before any work, that a file may be written at this path.

    Raises:
        OSError: nothing can be written there.
        CheckpointError: something is there already; with `force`, only if it is a folder.
    """
    check_writable(path.parent)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the name of the file to write.")
    if path.exists() and not force:
        raise CheckpointError(f"{path} exists; choose another output or replace it with --force.")


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write a file or a folder at, which takes its place when the block ends well.

    When the block fails, nothing of it stays on disk, neither folders above it that had to be made.
    """
    path = Path(os.path.abspath(path))
    first_new = next((parent for parent in reversed(path.parents) if not parent.exists()), None)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = path.name.encode(errors="ignore")[:80].decode(errors="ignore")  # file systems count bytes
    temporary = path.parent / f".{start}-{secrets.token_hex(4)}"
    try:
        with full_disk_told(path):
            yield temporary
            _put(temporary, path)
    except BaseException:
        _remove(temporary)
        if first_new is not None:
            _remove_empty(path.parent, first_new)
        raise


@contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """Gives a folder to write files in, which take their places in `folder` when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        yield Path(new)
        for file in Path(new).iterdir():
            os.replace(file, folder / file.name)


@contextmanager
def full_disk_told(path: Path, so: str | None = None, how: str = "give the same command again") -> Iterator[None]:
    """Within the block a disk that takes no more is one sentence, whatever library wrote.

    Args:
        path: is being written.
        so: what follows, in the sentence.
        how: the work goes on when there is room.

    Raises:
        OSError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if (place := full_disk(error, path.parent)) is None:
            raise
        so = so or f"{path} is not written, and what stood there stays"
        raise OSError(f"The disk of {place} is full, so {so}: make room, and {how}.") from error


def full_disk(error: BaseException, folder: Path) -> Path | None:
    """The folder whose disk is full if that is the reason for an error: where was written, or that of temporary files.

    Example:
        >>> str(full_disk(OSError(errno.ENOSPC, "No space left on device"), Path("detector")))
        'detector'
        >>> full_disk(OSError(13, "Permission denied"), Path("detector"))
    """
    free = {place: shutil.disk_usage(place).free for place in (folder, Path(tempfile.gettempdir())) if place.exists()}
    places = [place for place, count in free.items() if count < _LITTLE]
    link: BaseException | None = error
    while link is not None:
        # PyTorch's writer says no more than that it failed, and others than safetensors wrap what the system says.
        by_torch = places and isinstance(link, RuntimeError) and any(word in str(link) for word in TORCH_WRITES)
        if by_torch or getattr(link, "errno", None) in _NO_ROOM or os.strerror(errno.ENOSPC) in str(link):
            return places[0] if places else folder
        link = link.__cause__ or link.__context__
    return None


def follow_umask(folder: Path) -> None:
    """Gives weights the permissions of any new file; safetensors 0.8 leaves them to their owner alone."""
    private = [file for file in folder.glob("*.safetensors") if file.stat().st_mode & 0o777 == 0o600]
    if not private:
        return
    # Asking for the umask sets it, for all threads.
    probe = folder / f".mode-{secrets.token_hex(4)}"
    try:
        probe.touch()
        mode = probe.stat().st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)
    for file in private:
        file.chmod(mode)


def _put(new: Path, path: Path) -> None:
    if new.is_dir():
        follow_umask(new)
    if new.is_file():
        os.replace(new, path)
        return
    if not path.exists():
        os.rename(new, path)
        return
    old = new.with_name(new.name + "-old")
    try:
        rename_all([(path, old), (new, path)])
    except OSError:
        if any(path.iterdir()):
            raise
        # A mount point, as the outputs of a job on Azure are, cannot be renamed: what is new moves into it.
        for item in new.iterdir():
            shutil.move(item, path / item.name)
        new.rmdir()
        return
    _remove(old)


def rename_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Renames the first path of each pair to the second; on an error or an interrupt all have their old names."""
    try:
        for path, name in moves:
            os.rename(path, name)
    except BaseException:
        for path, name in reversed(moves):
            # Looked at, not noted: a signal may come right behind a renaming.
            if not os.path.lexists(path):
                os.rename(name, path)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_empty(folder: Path, top: Path) -> None:
    with suppress(OSError):
        while True:
            folder.rmdir()
            if folder == top:
                return
            folder = folder.parent


def sha256_of(*files: Path) -> str:
    """The digest of a file's content, or of several files' as if they were one, in hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def other_kind(start: bytes) -> str | None:
    """What a file that begins so is instead of weights, as the end of a sentence; None if it may be weights.

    >>> other_kind(b"<!DOCTYPE html>")
    'is a web page, not a checkpoint: download it again'
    """
    start = start.lstrip().lower()
    return next((meaning for prefix, meaning in _OTHER_FILES if start.startswith(prefix)), None)


__all__ = [
    "TORCH_WRITES",
    "check_new_file",
    "check_new_folder",
    "check_writable",
    "follow_umask",
    "full_disk",
    "full_disk_told",
    "new_files",
    "new_path",
    "other_kind",
    "rename_all",
    "sha256_of",
]
