"""A batch's work so far, in the folder OUTPUT.parts: every finished shard is a file, and a killed run loses none.

A shard's file appears whole, under its number, by being renamed; so does the output, joined from them in the order of
the input. Files that a killed run left half written are written again. A part's name tells its rows, how many of them
failed, and a digest of its content and of the sizes and times of its images: a part that is not as it was written, and
one whose images have changed, is computed again.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from deformable_detr_refine.files import full_disk

from .input import FileInput, Shard, TableInput, open_input, shard_size
from .rows import join
from .shard import ShardResult
from .tables import STEP

_JOB, _LISTING, _LOCK, _JOINED = "job.json", "images.json", "lock", "joined"
_PART = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9a-f]{16})\.part")


@dataclass(frozen=True)
class Part:
    """A finished shard's file; `stamp` is of its images (see `stamp_of`)."""

    name: str
    failed: int
    stamp: str

    @classmethod
    def of(cls, result: ShardResult) -> "Part":
        start = f"{result.number:06d}.{result.images}.{result.failed}"
        return cls(f"{start}.{_digest(start, result.stamp, result.content)}.part", result.failed, result.stamp)

    def holds(self, content: bytes) -> bool:
        """Whether this content is what was written."""
        start, digest, _ = self.name.rsplit(".", 2)
        return digest == _digest(start, self.stamp, content)


class Job:
    """The folder of one batch. `with` holds it: a second process on the same output is refused.

    Args:
        output: the file that the batch ends in.
    """

    def __init__(self, output: Path):
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        self.finished: dict[int, Part] = {}  # by the number of the shard
        self.again = 0  # images of shards that had been finished and are computed again
        self._lock: BinaryIO | None = None

    def __enter__(self) -> "Job":
        self.folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(self.folder) as entries:
            for entry in entries:
                # A pipe or a device would be read without an end.
                if _is_ours(entry.name) and not entry.is_file(follow_symlinks=False):
                    raise ValueError(f"{entry.path} is not a file of a batch: remove it, or choose another output.")
        self._lock = (self.folder / _LOCK).open("wb")
        if not _locked(self._lock):
            self._lock.close()
            raise ValueError(f"Another process is at work on {self.output}; wait for it, or choose another output.")
        return self

    @property
    def failed(self) -> int:
        """How many images of the finished shards failed."""
        return sum(part.failed for part in self.finished.values())

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None, "`__enter__` opens it"
        # Of a batch that failed before its first shard nothing is worth keeping.
        over = not (self.folder / _JOB).exists() or not any(self._parts())
        if over:
            self._clear()
        self._lock.close()
        if over:
            with contextlib.suppress(OSError):
                (self.folder / _LOCK).unlink()
                self.folder.rmdir()

    def start(
        self,
        source: str,
        column: str | None,
        settings: Mapping[str, Any],
        batch_size: int,
        force: bool,
        check: Callable[[FileInput | TableInput], None] = lambda images: None,
    ) -> tuple[FileInput | TableInput, int]:
        """Begins a batch, or goes on with the one that was begun.

        Args:
            source: what the batch reads (see `open_input`).
            column: of tables.
            settings: on which the rows depend.
            batch_size: by which the size of shards is chosen, when the batch begins.
            force: forget what was begun, and replace the output.
            check: refuses an input, before anything is forgotten.

        Returns:
            The input, and how many images a shard has.

        Raises:
            FileNotFoundError, ValueError: there is nothing to read, the output exists, or another batch was begun
                there; the message names the difference.
        """
        begun = None if force or not any(self._parts()) else self._begun()
        if begun is None:
            if self.output.exists() and not force:
                raise ValueError(
                    f"{self.output} is there already, as after a batch that is finished: --force computes it anew and "
                    "replaces it, or choose another output."
                )
            images = open_input(source, column)
            if any(table["path"] == str(self.output.absolute()) for table in images.identity.get("tables", ())):
                raise ValueError(f"{self.output} is the input; choose another output.")
        else:
            images = self._listing(source, begun.get("listing")) or open_input(source, column)
        check(images)
        now = json.loads(json.dumps({"source": source, **settings, "input": images.identity}))
        if begun is None:
            self._clear()
            size = shard_size(len(images), batch_size)
            listing = json.dumps(images.names).encode() if isinstance(images, FileInput) else None
            if listing is not None:
                self._write(_LISTING, listing)
                now["listing"] = hashlib.sha256(listing).hexdigest()
            # Last, since it says that the rest is there.
            self._write(_JOB, json.dumps({**now, "shard_size": size}, indent=1).encode())
            return images, size
        self._refuse_others(begun, now)
        self._take_up(images.shards(begun["shard_size"]))
        return images, begun["shard_size"]

    def put(self, result: ShardResult) -> bool:
        """Keeps a shard's rows. False when they are here already: a shard that was computed twice counts once."""
        if result.number in self.finished:
            return False
        part = Part.of(result)
        self._write(part.name, result.content)
        self.finished[result.number] = part
        return True

    def finish(self, shards: int, form: str) -> None:
        """Joins all shards into the output, and removes the folder."""
        if sorted(self.finished) != list(range(shards)):
            raise ValueError(f"{len(self.finished)} of {shards} shards came back from the workers: begin anew.")
        with self._whole(_JOINED) as new:
            join(map(self._content, sorted(self.finished)), new, form)
        os.replace(self.folder / _JOINED, self.output)
        (self.folder / _JOB).unlink()

    def _take_up(self, shards: Iterable[Shard]) -> None:
        """Finds the shards that an earlier run finished, and that still are what they were."""
        there: dict[int, list[re.Match[str]]] = {}
        for match in self._parts():
            there.setdefault(int(match[1]), []).append(match)
        for shard in shards:
            for match in there.get(shard.number, ()):
                part = Part(match[0], int(match[3]), shard.stamp())
                with contextlib.suppress(OSError):
                    if int(match[2]) == len(shard) and part.holds((self.folder / part.name).read_bytes()):
                        self.finished[shard.number] = part
            if shard.number in there and shard.number not in self.finished:
                self.again += len(shard)

    def _content(self, number: int) -> bytes:
        part = self.finished[number]
        with contextlib.suppress(OSError):
            if part.holds(content := (self.folder / part.name).read_bytes()):
                return content
        raise ValueError(f"{self.folder / part.name} is damaged: the same command again computes it anew.")

    def _begun(self) -> dict[str, Any] | None:
        content = self._read(_JOB)
        if content is None:
            return None
        begun = self._json(_JOB, content)
        size = begun.get("shard_size") if isinstance(begun, dict) else None
        if type(size) is not int or not 0 < size < 2**31 or size % STEP:
            raise self._damaged(_JOB)
        return begun

    def _read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).read_bytes()

    def _json(self, name: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> ValueError:
        return ValueError(f"{self.folder / name} is damaged: begin anew with --force.")

    def _listing(self, source: str, digest: Any) -> FileInput | None:
        """The image files of the batch that was begun, whatever has been added to the folder since."""
        if digest is None:
            return None
        content = self._read(_LISTING)
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            raise self._damaged(_LISTING)
        folder = Path(source) if Path(source).is_dir() else Path(source).parent if Path(source).is_file() else Path()
        return FileInput(folder.absolute(), self._json(_LISTING, content))

    def _refuse_others(self, begun: dict[str, Any], now: dict[str, Any]) -> None:
        for name in now:
            if begun.get(name) != now[name]:
                raise ValueError(
                    f"{self.folder} holds the work of another batch ({name} was {_short(begun.get(name))}, now "
                    f"{_short(now[name])}): give what was given then, or begin anew with --force."
                )

    def _parts(self) -> Iterator[re.Match[str]]:
        return filter(None, map(_PART.fullmatch, self._names()))

    def _names(self) -> list[str]:
        return os.listdir(self.folder)

    def _write(self, name: str, content: bytes) -> None:
        with self._whole(name) as new:
            new.write_bytes(content)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        """Gives a path to write a file at, which then has its name.

        Raises:
            OSError: it cannot be written.
        """
        new = self.folder / f"{name}.new"
        try:
            yield new
            _flush(new)
            os.replace(new, self.folder / name)
        except OSError as error:
            new.unlink(missing_ok=True)
            place = full_disk(error, self.folder)
            reason = f"the disk of {place} is full" if place else error.strerror or error
            raise OSError(
                f"{self.folder} cannot be written ({reason}): what is finished is kept; make room, and the same "
                "command goes on."
            ) from error

    def _clear(self) -> None:
        """Removes what a batch wrote here, and nothing else."""
        for name in (_JOB, *(name for name in self._names() if name != _JOB)):
            if _is_ours(name) and name != _LOCK:
                (self.folder / name).unlink(missing_ok=True)
        self.finished, self.again = {}, 0


def _is_ours(name: str) -> bool:
    name = name.removesuffix(".new")
    return name in (_JOB, _LISTING, _LOCK, _JOINED) or _PART.fullmatch(name) is not None


def _digest(start: str, stamp: str, content: bytes) -> str:
    return hashlib.sha256(f"{start} {stamp}\n".encode() + content).hexdigest()[:16]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:196]} ..."


def _flush(path: Path) -> None:
    """To the disk, so that a rename never shows an empty file after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _locked(file: BinaryIO) -> bool:
    """Takes the file's lock, which its process's death gives back. Where there are no locks it is not refused."""
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a network disk that knows no locks
            return True
    return True


__all__ = ["Job"]
