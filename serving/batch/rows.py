"""What a batch writes: a row for every image, as JSON lines, Parquet, or predictions.csv of Azure's batch endpoints.

jsonl: `{"index", "image", "width", "height", "boxes": [[x0, y0, x1, y1]], "scores", "labels"}`, with "error" where an
    image failed. Boxes are corners in pixels of the upright original image, best first; labels are names.
parquet: the same as columns.
predictions: no header; the row's number in its file, Azure's response for the image as JSON (corners in 0..1), and the
    file's name, which the model catalogue's samples read as row_number_per_file, preds, file_name.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deformable_detr_refine.inference.detections import short_floats
from deformable_detr_refine.inference.detector import DetectionFailure, Result
from deformable_detr_refine.modeling.image_io import as_text

from .tables import import_parquet

FORMATS = {".jsonl": "jsonl", ".parquet": "parquet", ".csv": "predictions"}
# Rows that stand together in the finished Parquet file.
_ROW_GROUP = 8192


@dataclass(frozen=True)
class BatchRow:
    """An image's place in the input, and what was found in it."""

    index: int
    name: str
    file: str
    row: int
    result: Result


def format_of(output: Path, name: str | None = None) -> str:
    """The format by its name, or by the output's suffix.

    Raises:
        ValueError: neither tells it, or it needs a package that is not there.

    Example:
        >>> format_of(Path("found/predictions.csv"))
        'predictions'
    """
    name = name or FORMATS.get(output.suffix.lower())
    if name is None or name not in FORMATS.values():
        raise ValueError(f"{output} is no .jsonl, .parquet or .csv: name the format, one of {_names()}.")
    if name == "parquet":
        import_parquet()
    return name


def encode(rows: Sequence[BatchRow], form: str) -> bytes:
    """A piece of an output file."""
    return {"jsonl": _jsonl, "parquet": _parquet, "predictions": _predictions}[form](rows)


def join(pieces: Iterable[bytes], output: Path, form: str) -> None:
    """Writes the pieces, one after the other, as one file."""
    if form == "parquet":
        _join_parquet(pieces, output)
        return
    with output.open("wb") as file:
        file.writelines(pieces)


def _jsonl(rows: Sequence[BatchRow]) -> bytes:
    return "".join(json.dumps(_record(row), ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def _record(row: BatchRow) -> dict[str, Any]:
    height, width = row.result.image_size or (None, None)
    record = {"index": row.index, "image": row.name, "width": width, "height": height}
    if isinstance(row.result, DetectionFailure):
        return {**record, "boxes": [], "scores": [], "labels": [], "error": as_text(row.result.error)}
    boxes, scores = short_floats(row.result.boxes), short_floats(row.result.scores)
    return {**record, "boxes": boxes, "scores": scores, "labels": row.result.names}


def _predictions(rows: Sequence[BatchRow]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow((row.row, json.dumps(row.result.to_azure(), ensure_ascii=False), row.file))
    return text.getvalue().encode("utf-8", "replace")


def _parquet(rows: Sequence[BatchRow]) -> bytes:
    import pyarrow

    columns = {field.name: [] for field in _schema()}
    for row in rows:
        record = {"error": None, **_record(row)}
        for name, values in columns.items():
            values.append(record[name])
    content = io.BytesIO()
    import_parquet().write_table(pyarrow.table(columns, schema=_schema()), content)
    return content.getvalue()


def _join_parquet(pieces: Iterable[bytes], output: Path) -> None:
    import pyarrow

    parquet, waiting, rows = import_parquet(), [], 0
    with parquet.ParquetWriter(output, _schema()) as writer:
        for piece in pieces:
            waiting.append(parquet.read_table(io.BytesIO(piece), schema=_schema()))
            rows += len(waiting[-1])
            if rows >= _ROW_GROUP:
                writer.write_table(pyarrow.concat_tables(waiting), row_group_size=rows)
                waiting, rows = [], 0
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting), row_group_size=max(rows, 1))


def _schema() -> Any:
    import pyarrow as pa

    boxes = pa.list_(pa.list_(pa.float32(), 4))
    return pa.schema(
        [
            ("index", pa.int64()),
            ("image", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("boxes", boxes),
            ("scores", pa.list_(pa.float32())),
            ("labels", pa.list_(pa.string())),
            ("error", pa.string()),
        ]
    )


def _names() -> str:
    return ", ".join(FORMATS.values())


__all__ = ["FORMATS", "BatchRow", "encode", "format_of", "join"]
