"""What is installed is what the folders hold, once, with every import declared."""

import ast
import contextlib
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import NamedTuple

import pytest
from support.packages import FOLDERS, OWN, PROJECT, ROOMS, ROOT

import ddetr
import deformable_detr_refine

SOURCES = sorted(file for folder in FOLDERS.values() for file in (ROOT / folder).glob("*.py"))
by_name = pytest.mark.parametrize("source", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())


def test_the_working_tree_never_shadows_the_installed_package():
    assert str(ROOT) not in sys.path and "" not in sys.path
    for folder in set(FOLDERS.values()) - {"deformable_detr_refine"}:
        spec = importlib.util.find_spec(folder)
        places = spec.submodule_search_locations or [] if spec else []
        assert str(ROOT / folder) not in places, f"{folder} can be imported as a second copy"


def test_every_file_is_imported_once_and_under_the_package_name():
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder).glob("*.py"):
            if file.stem != "__init__":
                with contextlib.suppress(*([ModuleNotFoundError] if ".serving" in package else [])):
                    importlib.import_module(f"{package}.{file.stem}")  # serving's may need an extra that is not here
    homes = {Path(module.__path__[0]) for module in (ddetr, deformable_detr_refine)}
    homes |= {Path(importlib.import_module(package).__path__[0]) for package in FOLDERS}
    files = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).parent in homes:
            assert name.split(".")[0] in OWN, f"{file} is loaded as {name}"
            assert files.setdefault(file, name) == name, f"{file} is loaded as {name} and {files[file]}"


def test_every_package_folder_is_listed():
    ignored = {"tests", "build", "dist", "demo"}
    found = {
        init.parent.relative_to(ROOT).as_posix()
        for init in ROOT.rglob("__init__.py")
        if not {part for part in init.relative_to(ROOT).parts if part.startswith(".") or part in ignored}
        and init.parent.resolve() == init.parent  # not through a link
    }
    assert found == set(FOLDERS.values())


def test_the_links_lead_to_the_rooms():
    """For editors and type checkers; where a checkout has no links (Windows), there is nothing to look at."""
    for package, folder in ROOMS.items():
        link = ROOT.joinpath(*package.split("."))
        if link.is_symlink():
            assert link.resolve() == ROOT / folder
        elif package != "deformable_detr_refine":
            assert not link.is_dir(), f"{link} is a second copy of {folder}"


class Import(NamedTuple):
    module: str
    dots: int  # of a relative import
    tried: bool  # stands in a try
    later: bool  # stands in a function, or is for type checkers only


def imports(source: Path) -> list[Import]:
    """Every import in a file."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    tried = {id(node) for attempt in ast.walk(tree) if isinstance(attempt, ast.Try) for node in ast.walk(attempt)}
    later = {id(node) for part in ast.walk(tree) if _runs_later(part) for node in ast.walk(part)}
    found = []
    for node in ast.walk(tree):
        where = (id(node) in tried, id(node) in later)
        if isinstance(node, ast.Import):
            found += [Import(alias.name, 0, *where) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(Import(node.module or "", node.level, *where))
    return found


def _runs_later(node: ast.AST) -> bool:
    for_checkers = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return for_checkers or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


# Started by their path, or copied away from their room, so that they import as others do.
SCRIPTS = {
    ROOT / script
    for script in (
        "conversion/proof/runner.py",
        "evaluation/metrics/detection_metric.py",
        "serving/azure/score.py",
        "serving/azure/score_batch.py",
        "serving/hub_handler.py",
        "training/azure.py",
        "training/train.py",
    )
}


def room_of(source: Path) -> str:
    return source.relative_to(ROOT).parts[0]


@by_name
def test_imports_are_relative_within_a_room_and_absolute_across(source):
    room = room_of(source)
    own = "ddetr" if room == "commands" else f"deformable_detr_refine.{room}"
    depth = len(source.relative_to(ROOT).parts) - 1
    for module, dots, tried, _ in imports(source):
        assert dots <= depth, f"from {'.' * dots}{module} leaves the room"
        if room == "modeling":
            assert dots == 0 or (dots == 1 and "." not in module), f"from {'.' * dots}{module} does not travel"
            assert tried or module.split(".")[0] not in OWN, f"import {module} fails in remote code"
        elif source not in SCRIPTS:
            assert module != own and not module.startswith(f"{own}."), f"import {module} relatively"


# What a room needs may be used by those after it, never the other way round; conversion is used by commands only.
BELOW = {
    "modeling": (),
    "deformable_detr_refine": ("modeling", "inference"),
    "inference": ("modeling",),
    "conversion": ("modeling", "inference"),
    "data": ("modeling", "inference"),
    "evaluation": ("modeling", "inference", "data"),
    "training": ("modeling", "inference", "data", "evaluation"),
    "serving": ("modeling", "inference", "data", "evaluation", "training"),
    "commands": ("modeling", "inference", "conversion", "data", "evaluation", "training", "serving"),
}
SHARED = {"errors", "files", "hub_names", "json_file", "machine", "messages", "secret_text", "yaml_text"}


@by_name
def test_dependencies_point_one_way(source):
    room = room_of(source)
    for module, dots, _, _ in imports(source):
        if dots or not module.startswith("deformable_detr_refine."):
            continue
        used = module.split(".")[1]
        allowed = {room, *BELOW[room]} | (SHARED if room != "modeling" else set())
        assert used in allowed, f"{room} imports {module}"
    assert room == "modeling" or room == "commands" or "ddetr" not in {module for module, *_ in imports(source)}


# Runs in MMDetection's own environment, which it needs and this package does not.
FOREIGN = ROOT / "conversion" / "proof" / "runner.py"


# What a room may import at once, beyond the package's own dependencies; in functions every extra may be.
EXTRAS = {
    "data": ["train"],
    "evaluation": ["train"],
    "training": ["train"],
    "serving": ["mlflow", "ray", "onnx", "serve"],
}


@by_name
def test_every_import_is_declared(source):
    if source == FOREIGN:
        return
    declared, extras = PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]
    at_once = {_name(item) for item in [*declared, *(i for e in EXTRAS.get(room_of(source), ()) for i in extras[e])]}
    in_all = at_once | {_name(item) for extra in extras.values() for item in extra}
    for module, dots, tried, is_later in imports(source):
        top = module.split(".")[0]
        if dots or tried or top in sys.stdlib_module_names or top in OWN:
            continue
        names = {_name(name) for name in providers().get(top, [top])}
        assert names & (in_all if is_later else at_once), f"{source.name} imports {top}, which is not declared for it"


@cache
def providers() -> Mapping[str, list[str]]:
    """The distributions that each top-level name comes from; takes a second."""
    return packages_distributions()


def _name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_the_installed_version_is_the_one_in_the_project_file():
    assert version("deformable-detr-refine") == PROJECT["project"]["version"]


def test_import_reaches_for_no_network_and_no_device_and_adds_little_to_transformers():
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('the import reaches for the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import torch, transformers.image_processing_backends\n"
        "from transformers import AutoModelForObjectDetection, AutoImageProcessor, PreTrainedModel\n"
        "before = set(sys.modules)\n"
        "import deformable_detr_refine\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'timm' not in sys.modules and 'supervision' not in sys.modules\n"
        "heavy = {'torch._inductor', 'datasets', 'matplotlib', 'pandas'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent, timeout=120)


def test_the_list_without_pytorch_asks_for_the_projects_versions():
    extras = PROJECT["project"]["optional-dependencies"]
    lines = (ROOT / "serving" / "deploy" / "onnx-requirements.txt").read_text().splitlines()
    expected = {line for line in lines if not line.startswith("#")}
    assert expected >= set(extras["serve"])
    assert expected <= {*PROJECT["project"]["dependencies"], *extras["serve"], *extras["onnx"]}
