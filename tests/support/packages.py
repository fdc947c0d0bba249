"""Which folder of the repository is which package, as pyproject.toml says."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
OWN = ("deformable_detr_refine", "ddetr")


def _folder_of(package: str) -> str:
    """Where a package lies in the repository: below its room."""
    if package in OWN:
        return ROOMS[package]
    room = ".".join(package.split(".")[:2])
    return "/".join([ROOMS[room], *package.split(".")[2:]])


FOLDERS = {package: _folder_of(package) for package in PROJECT["tool"]["setuptools"]["packages"]}
