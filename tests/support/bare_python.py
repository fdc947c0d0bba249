"""A Python with the packages of this one, in which this project is not installed."""

import os
import sys
import sysconfig
import venv
from pathlib import Path


def make_bare_python(folder: Path) -> Path:
    """Make the environment in `folder` -> its interpreter.

    Only folders of packages are named to it: what lies installed as a link (a .pth file) in this Python is not seen.
    """
    venv.create(folder, symlinks=os.name != "nt")
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    packages = dict.fromkeys([sysconfig.get_path("purelib"), *(p for p in sys.path if p.endswith("site-packages"))])
    Path(own, "packages.pth").write_text("\n".join(packages) + "\n", encoding="utf-8")
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)}), "python")
