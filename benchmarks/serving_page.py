"""SERVING.md: what the scripts about serving print, a section for each, with the command that it came from."""

import argparse
import datetime
import os
import re
import shlex
import sys
from pathlib import Path

from timing import machine

PAGE = Path(__file__).with_name("SERVING.md")
HEAD = """\
# Serving: results

Each section is written by the script that it names, with `--keep`. The seconds are the machine's; ratios carry over.
"""


class Section:
    """What a script says, line by line on the screen, and with `keep` in the page.

    Args:
        title: of the section; an older one of the same title is replaced.
    """

    def __init__(self, title: str):
        self.title, self.lines, self.load = title, [], _load()

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.lines.append(text)

    def keep(self) -> None:
        """Puts it into SERVING.md, in the place of what stood there."""
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_shown, sys.argv[1:])])
        if spins := os.environ.get("GOMP_SPINCOUNT"):  # as `ddetr` sets it
            command = f"GOMP_SPINCOUNT={spins} {command}"
        origin = f"`{command.replace(' --keep', '')}`, {datetime.date.today().isoformat()}; {machine()}{self.load}."
        section = f"## {self.title}\n\n" + "\n".join(self.lines).strip() + f"\n\n{origin}\n"
        others = re.split(r"^(?=## )", PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD, flags=re.MULTILINE)
        head, *sections = (part.strip() + "\n" for part in others)
        named = {part.partition("\n")[0]: part for part in sections} | {f"## {self.title}": section}
        aside = PAGE.with_name(f"{PAGE.name}.new")
        aside.write_text("\n".join([head, *named.values()]), encoding="utf-8")
        aside.replace(PAGE)


def add_keep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", action="store_true", help="also write the result into SERVING.md")


def _shown(argument: str) -> str:
    """Paths of this machine by their last part."""
    return Path(argument).name if argument.startswith("/") else argument


def _load() -> str:
    """What others did when the script began; nothing on a quiet machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"; others computed as well, load {load:.1f}" if load > 0.3 else ""
