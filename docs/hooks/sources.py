"""The packages under their own names, for mkdocstrings, which reads sources and imports nothing.

The repository's folders are called otherwise (modeling/ is `deformable_detr_refine`), as pyproject.toml says.
"""

import re
import shutil
import tomllib
from pathlib import Path

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "build" / "docs-sources"


@event_priority(100)  # mkdocstrings looks in its own on_config whether the folder is there
def on_config(config):
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    shutil.rmtree(SOURCES, ignore_errors=True)
    for package in setuptools["packages"]:
        folder = SOURCES.joinpath(*package.split("."))
        folder.mkdir(parents=True)
        for file in (ROOT / setuptools["package-dir"][package]).glob("*.py"):
            # griffe knows sections of examples by the plural only; the singular would lose its lines.
            text = re.sub(r"(?m)^( +)Example:$", r"\1Examples:", file.read_text(encoding="utf-8"))
            (folder / file.name).write_text(text, encoding="utf-8")
    return config
