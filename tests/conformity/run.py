"""Run transformers' own tests of every model on this package's classes: `make conformity`.

They lie in the source package of each release, not in the wheel. This fetches the installed release's through pip once,
into build/conformity/, and runs what modeling.py, image_processing.py here make of them. Arguments go to pytest.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import transformers

HERE = Path(__file__).parent
PACKAGE = "transformers_tests"  # not `tests`, which is this repository's


def fetch() -> Path:
    """The folder that holds the tests of the installed transformers, as a package; fetched unless it is there."""
    version = transformers.__version__
    folder = HERE.parents[1] / "build" / "conformity" / version
    if not (folder / PACKAGE).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--no-binary", "transformers", "--no-build-isolation", "--dest", folder, f"transformers=={version}"]
        subprocess.run(pip, check=True)
        with tarfile.open(folder / f"transformers-{version}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        tests = folder / f"transformers-{version}" / "tests"
        (tests / "__init__.py").touch()  # which one of them imports
        tests.rename(folder / PACKAGE)
    return folder


def main(arguments: list[str]) -> int:
    folder = fetch()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{folder}{os.pathsep}{HERE}"}
    pytest = [sys.executable, "-m", "pytest", "--import-mode=importlib", "-c", HERE / "pytest.ini", "-p", "stand_ins"]
    command = [*pytest, HERE / "modeling.py", HERE / "image_processing.py", *arguments]
    return subprocess.run(command, env=environment, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
