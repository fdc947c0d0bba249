"""The real MMDetection 3.1.0 in a folder of its own, beside the environment that this process runs in."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..download.cache import cache_folder

# mmcv-lite has mmcv's Python without its compiled operators; mmdet 3.1 takes mmcv below 2.1.
MMDETECTION = ("mmdet==3.1.0", "mmcv-lite==2.0.1", "mmengine==0.10.7")
# What the three import when a detector is built. Named one by one and installed without dependencies, so that torch,
# numpy, scipy, pillow, packaging and PyYAML stay the environment's own. What is compiled has no version here: it needs
# a wheel for whatever Python this is.
THEIR_IMPORTS = (
    "addict==2.4.0",
    "contourpy",
    "cycler==0.12.1",
    "fonttools",
    "kiwisolver",
    "markdown-it-py",
    "matplotlib",
    "mdurl==0.1.2",
    "opencv-python-headless",
    "platformdirs",
    "pycocotools",
    "pygments",
    "pyparsing",
    "python-dateutil",
    "rich",
    "shapely",
    "six==1.17.0",
    "termcolor",
    "terminaltables==3.1.10",
    "yapf==0.43.0",
)


def mmdet_folder() -> Path:
    """Where the real MMDetection is, or will be: one folder per Python, platform and list of packages."""
    digest = hashlib.sha256("\n".join(MMDETECTION + THEIR_IMPORTS).encode()).hexdigest()[:8]
    tag = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}-{digest}"
    return cache_folder() / "mmdet-3.1.0" / tag


def set_up_mmdet(say: Callable[[str], None] = lambda text: None) -> Path:
    """Installs MMDetection 3.1.0 once, into `mmdet_folder()`; the current environment is not changed.

    Args:
        say: told what takes long.

    Returns:
        The folder, to be put on the `PYTHONPATH` of another process.

    Raises:
        OSError: pip is missing, finds no package index, or the folder cannot be written.
    """
    folder = mmdet_folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"setting up the real MMDetection 3.1.0 (once, about 300 MB) in {folder}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="setting-up-") as aside:
        packages = Path(aside) / "packages"
        _install(packages)
        try:
            packages.rename(folder)
        except OSError:
            # Another process was faster: a folder that is there is complete.
            if not folder.is_dir():
                raise
    return folder


def _install(folder: Path) -> None:
    command = [*_installer(), "--no-deps", "--only-binary", ":all:", "--quiet", "--target", str(folder)]
    # A user's PIP_USER or pip.conf would contradict --target.
    environment = {**os.environ, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*command, *MMDETECTION, *THEIR_IMPORTS], env=environment, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        reason = (errors or done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(
            f"The real MMDetection could not be installed into {folder.parent.parent} ({reason}); "
            f"it needs a package index and a wheel of every package for Python {platform.python_version()}."
        )


def _installer() -> list[str]:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "pip", "install"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise OSError(
        f"Setting up the real MMDetection needs pip in this environment: {sys.executable} -m ensurepip, or install uv."
    )


__all__ = ["MMDETECTION", "mmdet_folder", "set_up_mmdet"]
