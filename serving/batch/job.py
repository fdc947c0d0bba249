"""A batch's work so far, in the folder OUTPUT.parts: every finished shard is a file, and a killed run loses none.

A shard's file appears whole, under its number, by being renamed; so does the output, joined from them in the order of
the input. Files that a killed run left half written are written again under the same names.
"""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .input import FileInput, TableInput, open_input, shard_size
from .rows import join
from .shard import ShardResult

_JOB, _LISTING, _LOCK, _JOINED = "job.json", "images.json", "lock", "joined"
_PART = re.compile(r"([0-9]+)\.([0-9]+)\.part")


class Job:
    """The folder of one batch. `with` holds it: a second process on the same output is refused.

    Args:
        output: the file that the batch ends in.
    """

    def __init__(self, output: Path):
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        self.failed: dict[int, int] = {}  # images that failed, by the number of the finished shard
        self._lock: BinaryIO | None = None

    def __enter__(self) -> "Job":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("wb")
        if not _locked(self._lock):
            self._lock.close()
            raise ValueError(f"Another process is at work on {self.output}; wait for it, or choose another output.")
        return self

    def __exit__(self, *_: object) -> None:
        # Of a batch that failed before its first shard nothing is worth keeping.
        over = not (self.folder / _JOB).exists() or not self._parts()
        if over:
            self._clear()
        self._lock.close()
        if over:
            with contextlib.suppress(OSError):
                (self.folder / _LOCK).unlink()
                self.folder.rmdir()

    def start(
        self, source: str, column: str | None, settings: Mapping[str, Any], batch_size: int, force: bool
    ) -> tuple[FileInput | TableInput, int]:
        """Begins a batch, or goes on with the one that was begun.

        Args:
            source: what the batch reads (see `open_input`).
            column: of tables.
            settings: on which the rows depend.
            batch_size: by which the size of shards is chosen, when the batch begins.
            force: forget what was begun, and replace the output.

        Returns:
            The input, and how many images a shard has.

        Raises:
            FileNotFoundError, ValueError: there is nothing to read, the output exists, or another batch was begun
                there; the message names the difference.
        """
        if force or not self._parts():
            self._clear()
        begun = self._begun()
        if begun is None:
            if self.output.exists() and not force:
                raise ValueError(f"{self.output} exists; choose another output or replace it with --force.")
            self._clear()
            found = open_input(source, column)
            if any(table["path"] == str(self.output.absolute()) for table in found.identity.get("tables", ())):
                raise ValueError(f"{self.output} is the input; choose another output.")
        else:
            found = self._listing(source) or open_input(source, column)
        now = json.loads(json.dumps({"source": source, **settings, "input": found.identity}))
        if begun is None:
            size = shard_size(len(found), batch_size)
            if isinstance(found, FileInput):
                self._write(_LISTING, json.dumps(found.names).encode())
            # Last, since it says that the rest is there.
            self._write(_JOB, json.dumps({**now, "shard_size": size}, indent=1).encode())
            return found, size
        self._refuse_others(begun, now)
        self.failed = {int(match[1]): int(match[2]) for match in self._parts()}
        return found, begun["shard_size"]

    def put(self, result: ShardResult) -> bool:
        """Keeps a shard's rows. False when they are here already: a shard that was computed twice counts once."""
        if result.number in self.failed:
            return False
        self._write(_name(result.number, result.failed), result.content)
        self.failed[result.number] = result.failed
        return True

    def finish(self, shards: int, form: str) -> None:
        """Joins all shards into the output, and removes the folder."""
        if sorted(self.failed) != list(range(shards)):
            raise RuntimeError(f"{len(self.failed)} of {shards} shards are finished.")
        parts = [self.folder / _name(number, self.failed[number]) for number in range(shards)]
        join(parts, self.folder / _JOINED, form)
        _flush(self.folder / _JOINED)
        os.replace(self.folder / _JOINED, self.output)
        (self.folder / _JOB).unlink()

    def _begun(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / _JOB).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.folder / _JOB} is damaged: begin anew with --force.") from error

    def _listing(self, source: str) -> FileInput | None:
        """The image files of the batch that was begun, whatever has been added to the folder since."""
        path = self.folder / _LISTING
        if not path.exists():
            return None
        folder = Path(source) if Path(source).is_dir() else Path(source).parent if Path(source).is_file() else Path()
        return FileInput(folder.absolute(), json.loads(path.read_bytes()))

    def _refuse_others(self, begun: dict[str, Any], now: dict[str, Any]) -> None:
        for name in now:
            if begun.get(name) != now[name]:
                raise ValueError(
                    f"{self.folder} holds the work of another batch ({name} was {_short(begun.get(name))}, now "
                    f"{_short(now[name])}): give what was given then, or begin anew with --force."
                )

    def _parts(self) -> list[re.Match[str]]:
        return [match for match in map(_PART.fullmatch, self._names()) if match]

    def _names(self) -> list[str]:
        return os.listdir(self.folder)

    def _write(self, name: str, content: bytes) -> None:
        new = self.folder / f"{name}.new"
        new.write_bytes(content)
        _flush(new)
        os.replace(new, self.folder / name)

    def _clear(self) -> None:
        """Removes what a batch wrote here, and nothing else."""
        for name in (_JOB, *(name for name in self._names() if name != _JOB)):
            if _PART.fullmatch(name.removesuffix(".new")) or name.removesuffix(".new") in (_JOB, _LISTING, _JOINED):
                (self.folder / name).unlink(missing_ok=True)
        self.failed = {}


def _name(number: int, failed: int) -> str:
    return f"{number:06d}.{failed}.part"


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
