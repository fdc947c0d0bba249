"""setuptools' commands, with the compiled library put into the package and named in the wheel's tag."""

import os
import platform
import shutil
import tempfile
from functools import cache
from pathlib import Path

from c_library import NAME, SOURCES, build
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = "deformable_detr_refine"
# The detector that comes with the package; a checkout has it among the samples.
EMBEDDED = Path(__file__).resolve().parents[1] / "samples" / "blood-cells"
PHOTOS = EMBEDDED.parent / "images"


@cache
def libraries() -> tuple[tempfile.TemporaryDirectory, list[Path]]:
    """The compiled files and the folder they are in, which lives as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="deformable_attention_")
    return folder, build(Path(folder.name))


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        folder = SOURCES[0].parent if self.editable_mode else Path(self.build_lib, PACKAGE, "modeling")
        built = libraries()[1]
        # build/ may hold an earlier build's, which the wheel's tag would not tell of.
        for stale in folder.glob(NAME.format(build="*")):
            if stale.name not in {library.name for library in built}:
                stale.unlink()
        for library in built:
            # Not written over: another process may be running the old one.
            aside = folder / f"{library.name}.{os.getpid()}"
            shutil.copy(library, aside)
            os.replace(aside, folder / library.name)

        if not self.editable_mode and EMBEDDED.is_dir():
            embedded = Path(self.build_lib, PACKAGE, EMBEDDED.name)
            shutil.copytree(EMBEDDED, embedded, dirs_exist_ok=True)
            for photo in PHOTOS.glob("BloodImage_*.jpg"):
                shutil.copy(photo, embedded)


class BdistWheel(bdist_wheel):
    def run(self) -> None:
        self.root_is_pure = not libraries()[1]
        # Packages go to the folder for platform-dependent code, as with an extension module.
        self.distribution.has_ext_modules = lambda: not self.root_is_pure
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        self.root_is_pure = not libraries()[1]
        # The library knows nothing of Python's interfaces, and on macOS it is for one kind of processor.
        return "py3", "none", super().get_tag()[2].replace("universal2", platform.machine())
