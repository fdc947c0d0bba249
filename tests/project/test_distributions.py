"""The sdist and the wheel, built from a checkout without links (as on Windows): what they hold, and that they work."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.bare_python import make_bare_python
from support.packages import FOLDERS, PROJECT, ROOT
from support.scripts import load_script

pytestmark = pytest.mark.slow

# By the project's own build backend, in the folder it lies in; a package may be hidden from it.
BUILD = """
import importlib.util, sys
kind, folder, hidden = sys.argv[1:]
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == hidden else find_spec(name, *rest)
sys.path.insert(0, "build_backend")
import hooks
print(getattr(hooks, "build_" + kind)(folder))
"""


def build(kind: str, source: Path, to: Path, hidden: str = "", **variables: str) -> Path:
    """The sdist or wheel of a source folder, in the folder `to`."""
    to.mkdir(exist_ok=True)
    environment = {name: text for name, text in os.environ.items() if name != "CC"} | variables
    command = [sys.executable, "-c", BUILD, kind, str(to), hidden]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True, timeout=600)
    return next(to.iterdir())


@pytest.fixture(scope="module")
def checkout(module_folder) -> Path:
    """What git knows of, with each link as the small text file that git writes where the system has none."""
    git = shutil.which("git")
    if not (git and (ROOT / ".git").exists()):
        pytest.skip("not a checkout")
    folder = module_folder("distributions") / "checkout"
    listed = subprocess.check_output([git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (folder / name).write_text(os.readlink(ROOT / name))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sdist(checkout) -> Path:
    return build("sdist", checkout, checkout.parent / "sdist")


@pytest.fixture(scope="module")
def unpacked(sdist) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parents[1] / "unpacked", filter="data")
    return next((sdist.parents[1] / "unpacked").iterdir())


@pytest.fixture(scope="module")
def wheel(unpacked) -> Path:
    return build("wheel", unpacked, unpacked.parents[1] / "wheel")


def test_the_sdist_holds_what_a_wheel_needs_and_no_test(unpacked):
    rooms = {Path(folder).parts[0] for folder in FOLDERS.values()}
    files = {"pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"}
    written = {"PKG-INFO", "setup.cfg", "deformable_detr_refine.egg-info"}
    assert {file.name for file in unpacked.iterdir()} == rooms | {"build_backend", "samples"} | files | written
    assert {file.name for file in (unpacked / "samples").iterdir()} == {"blood-cells", "images"}


def test_the_wheel_holds_every_file_once(wheel):
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    sources = {
        f"{package.replace('.', '/')}/{file.name}"
        for package, folder in FOLDERS.items()
        for file in (ROOT / folder).glob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources
    package, metadata = "deformable_detr_refine/", f"deformable_detr_refine-{PROJECT['project']['version']}.dist-info/"
    for name in ("py.typed", "evaluation/report/report.html.j2", "blood-cells/model.safetensors"):
        assert package + name in names
    assert "ddetr = ddetr.main:main" in archive.read(metadata + "entry_points.txt").decode()
    assert metadata + "licenses/LICENSE" in names
    contents = [hashlib.sha256(content).digest() for name in names if (content := archive.read(name))]
    assert max(Counter(names).values()) == max(Counter(contents).values()) == 1


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param("cc", marks=pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here")),
        pytest.param("zig", marks=pytest.mark.skipif(not find_spec("ziglang"), reason="no ziglang here")),
        None,
    ],
)
def test_the_wheel_has_the_library_where_something_can_compile_it(compiler, unpacked, request, tmp_path):
    if compiler == "cc":
        made = request.getfixturevalue("wheel")
    else:
        hidden = "" if compiler else "ziglang"
        cache = str(ROOT / "build" / "zig")
        made = build("wheel", unpacked, tmp_path / "wheel", hidden, PATH=str(tmp_path), ZIG_GLOBAL_CACHE_DIR=cache)
    libraries = [name for name in zipfile.ZipFile(made).namelist() if "deformable_attention_" in name]
    assert made.name.endswith("-py3-none-any.whl") == (compiler is None)
    assert bool(libraries) == (compiler is not None)
    assert all(name.startswith("deformable_detr_refine/modeling/") for name in libraries)
    problem = load_script(".github/check_release.py").problem_of(made)
    assert problem == (None if compiler else f"{made} has no C library: nothing compiled it.")


USE = """
import importlib, json, sys
from ddetr.default_model import default_model
from deformable_detr_refine.modeling.c_library import library

modules = [importlib.import_module(name).__file__ for name in sys.argv[1:]]
print(json.dumps({"modules": modules, "no library": library()[1], "detector": str(default_model())}))
"""


def installed(what: list[str], tmp_path: Path) -> tuple[dict, Path]:
    """Install in an environment of its own -> what USE prints there, and the environment's packages."""
    python = make_bare_python(tmp_path / "bare")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", *what]
    subprocess.run(pip, check=True, timeout=600)
    command = Path(python.parent, "ddetr")
    assert "convert" in subprocess.check_output([command, "--help"], text=True, cwd=tmp_path)
    modules = [package for package in FOLDERS if ".serving" not in package]
    output = subprocess.check_output([python, "-c", USE, *modules], text=True, cwd=tmp_path, timeout=600)
    return json.loads(output.splitlines()[-1]), tmp_path / "bare"


def test_an_installed_wheel_works(wheel, tmp_path):
    used, environment = installed([str(wheel)], tmp_path)
    assert all(Path(module).is_relative_to(environment) for module in used["modules"])
    assert Path(used["detector"]).is_relative_to(environment)
    assert used["no library"] is None or not shutil.which("cc")


def test_an_editable_install_works_without_links(checkout, tmp_path):
    assert (checkout / "deformable_detr_refine" / "modeling").read_text() == "../modeling"
    used, _ = installed(["--editable", str(checkout)], tmp_path)
    expected = [checkout / folder / "__init__.py" for folder in FOLDERS.values()]
    assert {Path(module) for module in used["modules"]} <= set(expected)
    assert Path(used["detector"]).is_relative_to(checkout)
    assert used["no library"] is None or not shutil.which("cc")
