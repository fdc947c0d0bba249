"""Azure's MLTable: a YAML file in a folder that names the files which make a table."""

from pathlib import Path
from typing import Any

from deformable_detr_refine.messages import one_line, printable
from deformable_detr_refine.yaml_text import read_yaml

from ..defects import DataError

MLTABLE = "MLTable"
_LARGEST = 2**20


def mltable_paths(table: Path) -> list[Any]:
    """The entries under `paths`, as they stand there: usually `{"file": "./NAME.jsonl"}`, but they may be anything.

    Raises:
        DataError: the file is too large, or no YAML.
    """
    if table.stat().st_size > _LARGEST:
        raise DataError(f"{table} is too large for an MLTable.")
    try:
        content = read_yaml(table.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{table} is no YAML: {printable(one_line(error), 200)}.") from error
    paths = content.get("paths") if isinstance(content, dict) else None
    return paths if isinstance(paths, list) else []


__all__ = ["MLTABLE", "mltable_paths"]
