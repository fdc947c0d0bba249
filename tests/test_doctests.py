"""The examples in docstrings run and print what they say.

Not pytest's own collection: it would import the folders under their own names, as second copies of the package.
"""

import doctest
import importlib
from pathlib import Path

import pytest

import ddetr
import deformable_detr_refine
import deformable_detr_refine.conversion

MODULES = [
    f"{package.__name__}.{file.stem}" if file.stem != "__init__" else package.__name__
    for package in (deformable_detr_refine, deformable_detr_refine.conversion, ddetr)
    for file in sorted(Path(package.__path__[0]).glob("*.py"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failures, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failures == 0
