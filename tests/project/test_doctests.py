"""The examples in docstrings run and print what they say.

Not pytest's own collection: it would import the folders under their own names, as second copies of the package.
"""

import doctest
import importlib
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
MODULES = [
    f"{package}.{file.stem}" if file.stem != "__init__" else package
    for package in PACKAGES
    for file in sorted(Path(importlib.import_module(package).__path__[0]).glob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8") and file.stem != "detection_metric"  # its own test runs a string's
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failures, examples = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert examples and not failures
