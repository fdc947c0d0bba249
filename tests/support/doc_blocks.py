"""The documentation as tests see it: pages, fenced blocks with the comment above them, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / "samples" / name for name in ("README.md", "blood-cells/README.md")),
    *(ROOT / "serving" / name for name in ("README.md", "deploy/README.md")),
]
_FENCE = re.compile(r"(?:<!-- (not run|slow): [^>]+ -->\n)?^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is 'not run', 'slow' or None, as the comment above it says."""

    page: Path
    line: int
    language: str
    text: str
    mark: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without comments and variables before it."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def blocks(page: Path, language: str, titled: bool = False) -> list[Block]:
    """A page's blocks of a language; those with a title are another's words, and left out unless asked for."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(4)), language, found[4], found[1])
        for found in _FENCE.finditer(text)
        if found[2] == language and (titled or "title=" not in found[3])
    ]


def inline(page: Path) -> list[str]:
    """What stands in backquotes within sentences and tables."""
    return _INLINE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def name(page: Path) -> str:
    """For test ids."""
    return str(page.relative_to(ROOT))
