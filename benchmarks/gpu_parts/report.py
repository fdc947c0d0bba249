"""What a part of gpu_session.py is told, and what it tells: tables, and sentences on what is wrong."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SAMPLES = Path(__file__).parents[2] / "samples"


@dataclass(frozen=True)
class Session:
    """One part's settings; `limit`: the seconds after which it is stopped; `work`: a folder that parts share."""

    part: str
    device: str
    work: Path
    data: Path | None
    backbone_weights: Path | None
    tune: bool
    limit: float

    @property
    def tiny(self) -> bool:
        return self.device == "cpu"

    @property
    def types(self) -> tuple[torch.dtype, ...]:
        """Of values."""
        return (torch.float32, torch.float16, torch.bfloat16)[: 1 if self.tiny else 3]

    @property
    def trained(self) -> Path:
        """Where the part `detector` leaves its detector."""
        return self.work / "trained"


class Report:
    """Written anew at each row, so that a part that is stopped leaves what it had."""

    def __init__(self, session: Session) -> None:
        self.file = session.work / f"{session.part}.json"
        self.found: dict[str, Any] = {"part": session.part, "state": "begun", "tables": [], "wrong": []}
        self._write()

    def table(self, title: str, *columns: str) -> None:
        """Begin one; rows that follow belong to it."""
        self.found["tables"].append({"title": title, "columns": columns, "rows": []})

    def row(self, *cells: Any) -> None:
        self.found["tables"][-1]["rows"].append([f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells])
        self._write()

    def wrong(self, sentence: str) -> None:
        """Something that must be mended."""
        self.found["wrong"].append(sentence)
        self._write()

    def attempt(self, name: str, function: Any) -> Any:
        """What function() gives; where it fails, that is told, and the part goes on (None)."""
        try:
            return function()
        except Exception as error:
            self.wrong(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return None

    def end(self, state: str, **more: Any) -> None:
        self.found |= {"state": state, **more}
        self._write()

    def _write(self) -> None:
        aside = self.file.with_suffix(".partial")
        aside.write_text(json.dumps(self.found))
        os.replace(aside, self.file)

    @staticmethod
    def read(work: Path, part: str) -> dict[str, Any]:
        """What a part has found so far."""
        file = work / f"{part}.json"
        if not file.is_file():
            return {"part": part, "state": "never began", "tables": [], "wrong": []}
        return json.loads(file.read_text())


def summary(reports: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["# A GPU session", "", "| part | | seconds | wrong |", "|---|---|---|---|"]
    lines += [f"| {r['part']} | {r['state']} | {r['seconds']} | {len(r['wrong'])} |" for r in reports]
    for report in reports:
        lines += ["", f"## {report['part']}"]
        lines += ["", *(f"- WRONG: {sentence}" for sentence in report["wrong"])] if report["wrong"] else []
        for table in report["tables"]:
            columns = table["columns"]
            lines += ["", table["title"], "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            lines += [f"| {' | '.join(row)} |" for row in table["rows"]]
    return "\n".join(lines) + "\n"
