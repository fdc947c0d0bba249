"""JSON that lies with weights, or that a user gives: read as plain values, of bounded size."""

import json
from pathlib import Path
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import other_kind
from deformable_detr_refine.messages import near, printable

_MOST_BYTES = 10_000_000  # 3,300,000 empty lists, which take 230 MB


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file as a dictionary.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}{near(path)}")
    if path.stat().st_size > _MOST_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, which no settings have.")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        kind = other_kind(path.read_bytes()[:512])
        raise CheckpointError(f"{path} {kind or f'is not JSON: {printable(str(error))}'}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a JSON {type(values).__name__}, not an object.")
    return values


__all__ = ["read_json"]
