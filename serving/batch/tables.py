"""Tables with images: CSV, JSON lines and Parquet, read from any row on without what stands before it.

Of CSV and JSON lines the position of every eighth row is noted in one pass; Parquet knows its row groups.
"""

import codecs
import csv
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from deformable_detr_refine.inference.detector import DetectionFailure
from deformable_detr_refine.messages import one_line
from deformable_detr_refine.modeling.image_io import file_of, is_image_name
from deformable_detr_refine.modeling.url_io import is_url

STEP = 8
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
# Azure's names first.
_COLUMNS = (
    *("image", "image_url", "image_path", "path", "file_name", "filename", "file"),
    *("url", "bytes", "image_bytes", "content"),
)
_LONGEST_CELL = 2**28
_LONGEST_NAME = 64  # of a column; base64 of the smallest image is longer
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Table:
    """A table of a known number of rows.

    Args:
        path: the file.
        column: which column holds the images, by name; "column 1" in a CSV without a header.
        rows: how many rows it has.
        place: of that column in a CSV, from 0.
        positions: byte of every eighth row, in a file of text.
    """

    path: Path
    column: str
    rows: int
    place: int = 0
    positions: array = field(default_factory=lambda: array("q"), repr=False, compare=False)

    def __len__(self) -> int:
        return self.rows

    @property
    def identity(self) -> dict[str, Any]:
        """By which a changed file is noticed."""
        state = self.path.stat()
        return {"path": str(self.path), "column": self.column, "bytes": state.st_size, "time": state.st_mtime_ns}

    def rows_from(self, row: int, count: int) -> "Rows":
        """`count` rows from `row` on, which is a multiple of eight."""
        position = self.positions[row // STEP] if self.positions else 0
        return Rows(self.path, self.column, row, count, position, self.place)


@dataclass(frozen=True)
class Rows:
    """A few rows of a table, small enough to be sent to another process; `position` is the first one's byte."""

    path: Path
    column: str
    first: int
    count: int
    position: int
    place: int = 0

    def cells(self) -> Iterator[Any]:
        """The images' cells; a `DetectionFailure` where a row is broken."""
        read = {".csv": _csv_cells, ".jsonl": _json_cells, ".parquet": _parquet_cells}[self.path.suffix.lower()]
        yield from islice(read(self), self.count)


def scan(path: Path, column: str | None) -> Table:
    """Finds the rows of a table.

    Raises:
        ValueError: it cannot be read, or which column holds the images is not clear.
        ImportError: Parquet cannot be read here.
    """
    kind = path.suffix.lower()
    if kind != ".parquet":
        with path.open("rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ValueError(f"{path} is written in UTF-16; save it as UTF-8.")
    return {".csv": _scan_csv, ".jsonl": _scan_json, ".parquet": _scan_parquet}[kind](path, column)


def import_parquet() -> Any:
    """`pyarrow.parquet`.

    Raises:
        ValueError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError('Parquet needs pyarrow: pip install "deformable-detr-refine[train]".') from error
    return pyarrow.parquet


class _Lines:
    """Lines of text with the byte after the last one that was taken."""

    def __init__(self, file: BinaryIO):
        self.file, self.position = file, file.tell()

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.position += len(line)
            # A name's bytes that are no UTF-8 stay what they are, and find its file.
            yield line.decode("utf-8", errors="surrogateescape")


def _csv_reader(lines: _Lines) -> Any:
    csv.field_size_limit(_LONGEST_CELL)
    # Else a quote that is not closed takes all rows behind it into one.
    return csv.reader(iter(lines), strict=True)


def _scan_csv(path: Path, column: str | None) -> Table:
    positions, rows = array("q"), 0
    with path.open("rb") as file:
        file.seek(_start_of_text(file))
        lines = _Lines(file)
        reader = _csv_reader(lines)
        begin = 1  # the line at which a row begins
        try:
            cells = next((row for row in reader if row), [])
            _check_separator(cells, path)
            position, begin = lines.position, reader.line_num + 1
            second = [] if column else next((row for row in reader if row), [])
            place = None if column else _image_cell(cells, second, path.parent)
            if place is None:
                names = [name.strip() for name in cells]
                column = _choose(names, column, path)
                place = names.index(column)
            else:  # no header: the first row holds an image
                column, position, begin = f"column {place + 1}", _start_of_text(file), 1
            file.seek(position)
            lines = _Lines(file)
            reader, above = _csv_reader(lines), begin - 1
            for row in reader:
                if row:
                    if rows % STEP == 0:
                        positions.append(position)
                    rows += 1
                position, begin = lines.position, above + reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}, line {begin}: this is no CSV ({error}).") from error
    return Table(path, column, rows, place, positions=positions)


def _image_cell(cells: Sequence[str], second: Sequence[str], folder: Path) -> int | None:
    """Which cell of a table's first row is an image, and so no name of a column; None if the row is a header."""
    if any(cell.strip() in _COLUMNS for cell in cells):
        return None
    return next(
        (
            place
            for place, cell in enumerate(cells)
            if _is_image(cell.strip(), folder) or (place < len(second) and _both_are_paths(cell, second[place]))
        ),
        None,
    )


def _both_are_paths(cell: str, below: str) -> bool:
    """Of a first row's cell, which may be the name of a column (`w/h`, `Image/URL`), and the one below it."""
    words = re.split(r"\W+", cell.lower())
    return all(re.search(r"[\\/]", text) for text in (cell, below)) and not any(word in _COLUMNS for word in words)


def _is_image(cell: str, folder: Path) -> bool:
    remote = is_url(cell) or cell.startswith("data:image/")
    like_one = is_image_name(cell) or len(cell) > _LONGEST_NAME
    return remote or like_one or bool(cell and file_of(folder / cell).is_file())


def _check_separator(cells: Sequence[str], path: Path) -> None:
    """Of a first row of one cell, which may be a name with anything in it, that it is no row of another separator."""
    cell = cells[0] if len(cells) == 1 else ""
    other = next((mark for mark in (";", "\t") if mark in cell), None)
    if other and not is_url(cell) and not cell.startswith("data:") and not file_of(path.parent / cell).is_file():
        raise ValueError(f"{path}, line 1: the cells stand between {other!r}, not between commas; save it with commas.")


def _start_of_text(file: BinaryIO) -> int:
    """The first byte behind the mark of UTF-8, if there is one."""
    file.seek(0)
    return len(_MARK) if file.read(len(_MARK)) == _MARK else 0


def _csv_cells(rows: Rows) -> Iterator[Any]:
    with rows.path.open("rb") as file:
        file.seek(rows.position)
        for cells in _csv_reader(_Lines(file)):
            if cells:
                there = rows.place < len(cells)
                yield cells[rows.place] if there else DetectionFailure(f"The row has no {rows.column}.")


def _scan_json(path: Path, column: str | None) -> Table:
    positions, rows, first = array("q"), 0, {}
    with path.open("rb") as file:
        position = 0
        for line in file:
            if line.strip():
                if rows % STEP == 0:
                    positions.append(position)
                if not first and isinstance(row := _parsed(line), dict):
                    first = row
                rows += 1
            position += len(line)
    return Table(path, _choose(list(first), column, path), rows, positions=positions)


def _json_cells(rows: Rows) -> Iterator[Any]:
    with rows.path.open("rb") as file:
        file.seek(rows.position)
        for line in file:
            if line.strip():
                row = _parsed(line)
                there = isinstance(row, dict) and rows.column in row
                yield row[rows.column] if there else DetectionFailure(f"The line is no object with {rows.column}.")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None


def _scan_parquet(path: Path, column: str | None) -> Table:
    parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            return Table(path, _choose(file.schema_arrow.names, column, path), file.metadata.num_rows)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error


def _parquet_cells(rows: Rows) -> Iterator[Any]:
    # Read as a stream: a row group may hold gigabytes.
    with import_parquet().ParquetFile(rows.path, buffer_size=1 << 20, pre_buffer=False) as file:
        groups = range(file.metadata.num_row_groups)
        start = 0
        while groups and start + file.metadata.row_group(groups[0]).num_rows <= rows.first:
            start += file.metadata.row_group(groups[0]).num_rows
            groups = groups[1:]
        for batch in file.iter_batches(STEP, row_groups=list(groups), columns=[rows.column]):
            if start + len(batch) > rows.first:
                yield from batch.slice(max(rows.first - start, 0)).column(0).to_pylist()
            start += len(batch)


def _choose(names: Sequence[str], column: str | None, path: Path) -> str:
    if column is not None and column not in names:
        raise ValueError(f"{path} has no column {column}, only {', '.join(names)}.")
    if column is None and len(names) == 1:
        return names[0]
    column = column or next((name for name in _COLUMNS if name in names), None)
    if column is None:
        columns = f"has the columns {', '.join(names)}" if names else "has no columns"
        raise ValueError(f"{path} {columns}: none of them is named image; name the one with the images (--column).")
    return column


__all__ = ["STEP", "TABLE_SUFFIXES", "Table", "import_parquet", "scan"]
