"""What is installed is what the folders hold, once, with every import declared."""

import ast
import contextlib
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import NamedTuple

import pytest

import ddetr
import deformable_detr_refine

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]
OWN = ("deformable_detr_refine", "ddetr")
SOURCES = sorted(file for folder in FOLDERS.values() for file in (ROOT / folder).glob("*.py"))
by_name = pytest.mark.parametrize("source", SOURCES, ids=lambda file: f"{file.parent.name}/{file.name}")


def test_the_working_tree_never_shadows_the_installed_package():
    assert str(ROOT) not in sys.path and "" not in sys.path
    for folder in set(FOLDERS.values()):
        spec = importlib.util.find_spec(folder)
        places = spec.submodule_search_locations or [] if spec else []
        assert str(ROOT / folder) not in places, f"{folder} can be imported as a second copy"


def test_every_file_is_imported_once_and_under_the_package_name():
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder).glob("*.py"):
            if file.stem != "__init__":
                with contextlib.suppress(*([ModuleNotFoundError] if package.endswith("serving") else [])):
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
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(FOLDERS)
    ignored = {"tests", "build", "dist", "demo"}
    found = {
        init.parent.relative_to(ROOT).as_posix()
        for init in ROOT.rglob("__init__.py")
        if not {part for part in init.relative_to(ROOT).parts if part.startswith(".") or part in ignored}
    }
    assert found == set(FOLDERS.values())


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


@by_name
def test_imports_are_relative_in_modeling_and_absolute_elsewhere(source):
    for module, dots, tried, _ in imports(source):
        if source.parent.name == "modeling":
            assert dots == 0 or (dots == 1 and "." not in module), f"from {'.' * dots}{module} does not travel"
            assert tried or module.split(".")[0] not in OWN, f"import {module} fails in remote code"
        else:
            assert dots == 0, f"from {'.' * dots}{module}: import absolutely"


# What a package needs may be used by those after it, never the other way round.
ORDER = [
    "deformable_detr_refine",
    "deformable_detr_refine.conversion",
    "deformable_detr_refine.data",
    "deformable_detr_refine.evaluation",
    "deformable_detr_refine.training",
    "deformable_detr_refine.serving",
    "ddetr",
]


# Scripts, which nothing imports: after the training they write the MLflow model.
SCRIPTS = {ROOT / "training" / "train.py", ROOT / "training" / "azure.py"}


@by_name
def test_dependencies_point_one_way(source):
    package = next(name for name, folder in FOLDERS.items() if source.parent == ROOT / folder)
    later = ORDER[ORDER.index(package) + 1 :]
    for module, _, _, is_later in imports(source):
        if is_later and source in SCRIPTS:
            continue
        assert not any(module == name or module.startswith(f"{name}.") for name in later), f"{package} imports {module}"


# Runs in MMDetection's own environment, which it needs and this package does not.
FOREIGN = "mmdet_runner.py"


# What a room may import at once, beyond the package's own dependencies; in functions every extra may be.
EXTRAS = {"data": ["train"], "evaluation": ["train"], "training": ["train"], "serving": ["mlflow", "ray", "onnx"]}


@by_name
def test_every_import_is_declared(source):
    if source.name == FOREIGN:
        return
    declared, extras = PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]
    at_once = {_name(item) for item in [*declared, *(i for e in EXTRAS.get(source.parent.name, ()) for i in extras[e])]}
    in_all = at_once | {_name(item) for extra in extras.values() for item in extra}
    providers = packages_distributions()
    for module, dots, tried, is_later in imports(source):
        top = module.split(".")[0]
        if dots or tried or top in sys.stdlib_module_names or top in OWN:
            continue
        names = {_name(name) for name in providers.get(top, [top])}
        assert names & (in_all if is_later else at_once), f"{source.name} imports {top}, which is not declared for it"


def _name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_the_installed_version_is_the_one_in_the_project_file():
    assert version("deformable-detr-refine") == PROJECT["project"]["version"]


def test_import_reaches_for_no_network_and_no_device():
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('the import reaches for the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import deformable_detr_refine, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'timm' not in sys.modules and 'supervision' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent, timeout=120)


@pytest.mark.slow
def test_a_wheel_holds_every_file_and_the_command(tmp_path):
    source = tmp_path / "source"
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "build_backend", source / "build_backend", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "samples" / "blood-cells", source / "samples" / "blood-cells")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(pip, check=True, timeout=300)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    expected = {
        f"{package.replace('.', '/')}/{file.name}"
        for package, folder in FOLDERS.items()
        for file in (ROOT / folder).glob("*.py")
    }
    assert {name for name in wheel.namelist() if name.endswith(".py")} == expected
    assert "deformable_detr_refine/evaluation/report.html.j2" in wheel.namelist()
    assert "deformable_detr_refine/blood-cells/model.safetensors" in wheel.namelist()
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "ddetr = ddetr.main:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
