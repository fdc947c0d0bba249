"""What a batch reads: image files, or tables that hold or name images; cut into shards that any process can read.

Image files keep their listing, so that an interrupted batch goes on with the same ones; images and tables are known by
size and time. Nothing is decoded here, and of a table no more than a shard is in memory.
"""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deformable_detr_refine.data.formats.image_files import files_in, fitting, images_below, natural_key, not_images
from deformable_detr_refine.data.formats.mltable import MLTABLE, mltable_paths
from deformable_detr_refine.inference.detector import DetectionFailure
from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling.image_io import file_of, is_image_name, is_url

from ..azure.schema import read_images
from ..limits import Limits
from .tables import STEP, TABLE_SUFFIXES, Rows, Table, scan

# URLs are fetched this many at a time, and no more decoded base64 waits for the model.
_READ_AHEAD = 8
_REMOTE = ("azureml:", "amldatastore:")


@dataclass(frozen=True)
class BatchImage:
    """One image of a batch.

    Args:
        index: its place in the whole input.
        name: a path below the input's folder, a URL, or FILE#ROW for an image inside a table.
        file: the image's own file, or the table it stands in.
        row: row in that table; 0 in an image's own file.
        source: bytes of an image file, a path, or why there is neither.
    """

    index: int
    name: str
    file: str
    row: int
    source: bytes | Path | DetectionFailure


@dataclass(frozen=True)
class FileShard:
    """A few image files. `first` is the index of the first one."""

    number: int
    first: int
    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def images(self) -> Iterator[BatchImage]:
        for index, name in enumerate(self.names, self.first):
            yield BatchImage(index, name, name, 0, self.folder / name)

    def stamp(self) -> str:
        return stamp_of(self.folder / name for name in self.names)


@dataclass(frozen=True)
class TableShard:
    """A few rows of a table. `first` is the index of the first one in the whole input."""

    number: int
    first: int
    rows: Rows

    def __len__(self) -> int:
        return self.rows.count

    def images(self) -> Iterator[BatchImage]:
        limits, file = Limits.from_environment(), self.rows.path.name
        cells = enumerate(self.rows.cells())
        while group := list(islice(cells, _READ_AHEAD)):
            sources = [_look_up(cell, self.rows.path.parent) for _, cell in group]
            read = iter(read_images([source for _, source in sources if isinstance(source, str)], limits))
            for (offset, _), (name, source) in zip(group, sources, strict=True):
                image = next(read) if isinstance(source, str) else source
                row = self.rows.first + offset
                yield BatchImage(self.first + offset, name or f"{file}#{row}", file, row, image)

    def stamp(self) -> str:
        """Of the files that the table names; the table itself is known by its own size and time."""
        sources = (_look_up(cell, self.rows.path.parent)[1] for cell in self.rows.cells())
        return stamp_of(source for source in sources if isinstance(source, Path))


Shard = FileShard | TableShard


class FileInput:
    """Image files below a folder, in a listing that is kept with the work; `others` counts what else lies there."""

    def __init__(self, folder: Path, names: Sequence[str], others: Counter[str] | None = None):
        self.folder, self.names, self.others = folder, names, Counter(others)
        self.identity: dict[str, Any] = {"folder": str(folder)}

    def __len__(self) -> int:
        return len(self.names)

    def shards(self, size: int) -> Iterator[FileShard]:
        for number, first in enumerate(range(0, len(self.names), size)):
            yield FileShard(number, first, self.folder, tuple(self.names[first : first + size]))


class TableInput:
    """Tables, one after the other."""

    def __init__(self, tables: Sequence[Table], others: Counter[str] | None = None):
        self.tables, self.others = tables, Counter(others)
        self.identity = {"tables": [table.identity for table in tables]}

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables)

    def shards(self, size: int) -> Iterator[TableShard]:
        number = first = 0
        for table in self.tables:
            for row in range(0, len(table), size):
                count = min(size, len(table) - row)
                yield TableShard(number, first, table.rows_from(row, count))
                number, first = number + 1, first + count


def open_input(source: str, column: str | None = None) -> FileInput | TableInput:
    """Finds what a batch reads.

    Args:
        source: a folder (its images, also those in folders below; else its tables), a file, a glob pattern, or a folder
            with an MLTable. Tables are CSV, Parquet, or JSON lines.
        column: the tables' column with the images: bytes, base64, paths from the table's folder on, or URLs. Without it
            one is chosen by its name.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: there are no images, or a table cannot be read.
    """
    path = Path(source)
    if path.name == MLTABLE and path.is_file():
        path = path.parent
    if (path / MLTABLE).is_file():
        return _from_files(_of_mltable(path), path, column)
    if path.is_dir():
        return _from_folder(path, column)
    if path.is_file():
        return _from_files([path.name], path.parent, column)
    if glob.has_magic(source):
        files = sorted((file for file in fitting(source) if os.path.isfile(file)), key=natural_key)
        if files:
            return _from_files(files, Path(), column)
        raise FileNotFoundError(f"No file fits the pattern {source}.")
    if is_url(source):
        raise ValueError("A batch reads files: write the URLs into a CSV with the header image, one in a line.")
    raise FileNotFoundError(f"There is no file or folder {source}{near(source)}")


def stamp_of(files: Iterable[Path]) -> str:
    """A digest of the sizes and times of files, by which a changed one is noticed."""
    digest = hashlib.sha256()
    for file in files:
        try:
            state = file_of(file).stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"none\n")
    return digest.hexdigest()


def shard_size(count: int, batch_size: int) -> int:
    """Images in a shard: few, so that little is computed again after a stop, but not above 10,000 shards.

    Example:
        >>> shard_size(1000, 1), shard_size(1000, 4), shard_size(10_000_000, 1)
        (8, 32, 1000)
    """
    least = STEP * max(batch_size, 1)
    return max(least, -(-count // 10_000 // STEP) * STEP)


def _from_folder(folder: Path, column: str | None) -> FileInput | TableInput:
    others: Counter[str] = Counter()
    if names := list(images_below(folder, others)):
        return FileInput(folder.absolute(), names, others)
    tables = [file.name for file in files_in(folder, "*") if file.suffix.lower() in TABLE_SUFFIXES]
    if tables:
        for suffix in TABLE_SUFFIXES:
            del others[suffix]
        return _from_files(tables, folder, column, others)
    there = f": {not_images(others)}" if others else ""
    raise ValueError(f"The folder {folder} holds no images, and no tables (CSV, Parquet, JSON lines){there}.")


def _from_files(
    names: Iterable[str], folder: Path, column: str | None, others: Counter[str] | None = None
) -> FileInput | TableInput:
    names = [name for name in names if not Path(name).name.startswith(".")]
    tables = [name for name in names if name.lower().endswith(TABLE_SUFFIXES)]
    if not tables:
        images = [name for name in names if is_image_name(name)]
        if images:
            others = Counter(Path(name).suffix.lower() or Path(name).name for name in names if not is_image_name(name))
            return FileInput(folder.absolute(), images, others)
        first = folder / names[0] if names else folder
        raise ValueError(f"{first} is neither an image nor a table (CSV, Parquet, JSON lines).")
    if len(tables) < len(names):
        raise ValueError(f"{names[0]} ... {names[-1]} are tables and other files: give one kind.")
    table = TableInput([scan((folder / name).absolute(), column) for name in tables], others)
    if not len(table):
        raise ValueError(f"{folder / tables[0]} holds no rows.")
    return table


def _of_mltable(folder: Path) -> list[str]:
    """The files that an MLTable names, as paths from its folder on."""
    path, names = folder / MLTABLE, []
    for entry in mltable_paths(path):
        kind, value = next(iter(entry.items()), (None, None)) if isinstance(entry, dict) else (None, None)
        if kind not in ("file", "folder", "pattern") or not isinstance(value, str):
            raise ValueError(f"{path} has a path of another kind than file, folder and pattern.")
        if "://" in value:
            raise ValueError(f"{path} names {value[:100]}: download it, and name the file beside the MLTable.")
        names += _named(folder, kind, value)
    if not names:
        raise ValueError(f"{path} names no file (paths: - file: ./NAME.jsonl).")
    return names


def _named(folder: Path, kind: str, value: str) -> list[str]:
    if kind == "file":
        files = [value] if (folder / value).is_file() else []
    else:
        pattern = value if kind == "pattern" else f"{value.rstrip('/')}/**"
        paths = sorted(fitting(os.path.join(glob.escape(str(folder)), pattern)), key=natural_key)
        files = [os.path.relpath(path, folder) for path in paths if os.path.isfile(path)]
    if not files:
        raise FileNotFoundError(f"{folder / MLTABLE} names {value}, which is not there.")
    return [os.path.normpath(name).replace(os.sep, "/") for name in files]


def _look_up(cell: Any, folder: Path) -> tuple[str, bytes | Path | str | DetectionFailure]:
    """The name of an image in a table's cell, '' if it has none, and where it is; a string is base64 or a URL."""
    if isinstance(cell, DetectionFailure | bytes):
        return "", cell if cell else DetectionFailure("The row has no image.")
    if isinstance(cell, dict):  # as the datasets library stores images
        name = path if isinstance(path := cell.get("path"), str) else ""
        return name, _look_up(cell.get("bytes") or name, folder)[1]
    if not isinstance(cell, str) or not cell.strip():
        return "", DetectionFailure("The row has no image.")
    if is_url(cell.strip()):
        return cell.strip(), cell.strip()
    if len(cell) < 4096 and "\n" not in cell:
        for name in _possible_paths(cell):
            if (path := file_of(folder / name)).is_file():
                return cell, path
        if is_image_name(cell):
            return cell, DetectionFailure(f"There is no image file {folder / cell}.")
    return "", cell


def _possible_paths(cell: str) -> list[str]:
    if not cell.lower().startswith(_REMOTE):
        return [cell.removeprefix("file://")]
    # The longest end that exists: a data store's folders stand before those of the data set.
    parts = [part for part in cell.split("://", 1)[-1].split("/") if part not in ("", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


__all__ = [
    "BatchImage",
    "FileInput",
    "FileShard",
    "Shard",
    "TableInput",
    "TableShard",
    "open_input",
    "shard_size",
    "stamp_of",
]
