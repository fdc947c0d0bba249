"""Python files of the repository that belong to no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

from .packages import ROOT


def load_script(path: str) -> ModuleType:
    """A new module of a file, by its path in the repository; it is not in sys.modules."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
