"""Where a verb's results go: whether they can be written there is found out before the work."""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from .main import messages

# What is being written, and after kill -9 what is left of it.
_ASIDE = ".ddetr-new-"
_HARMLESS = (f"{_ASIDE}*/", ".DS_Store")


def make_writable(folder: Path) -> None:
    """Checks that files can be written in a folder, and makes it.

    Raises:
        OSError: they cannot.
    """
    from deformable_detr_refine.files import check_writable

    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)


def check_results_folder(folder: Path, own: Sequence[str]) -> None:
    """Checks, before any work, that a folder holds nothing but what an earlier run of the verb wrote into it.

    Args:
        own: names, or patterns of names, of what the verb writes there; those of folders end in a slash.

    Raises:
        OSError: it is a file, or nothing can be written there.
        ValueError: it holds something else.
    """
    from deformable_detr_refine.files import check_writable

    check_writable(folder, "--output")
    if not folder.exists():
        return
    held = sorted(item.name + "/" * item.is_dir() for item in folder.iterdir())
    if others := [name for name in held if not any(fnmatch(name, pattern) for pattern in (*own, *_HARMLESS))]:
        listed = ", ".join(map(messages()["printable"], others[:3]))
        raise ValueError(
            f"{folder} holds other things than earlier results ({listed}{', ...' if len(others) > 3 else ''}): "
            "choose another --output."
        )


@contextmanager
def results_folder(folder: Path, own: Sequence[str]) -> Iterator[Path]:
    """Gives a folder to write results in, which take the place of all earlier ones when the block ends well.

    An output folder is so of one run: nothing of an earlier one stays beside the new. When the block fails, the earlier
    results stay, and a folder that had to be made is gone.

    Args:
        own: as of `check_results_folder`.
    """
    from deformable_detr_refine.files import full_disk_told

    check_results_folder(folder, own)
    was_there = folder.exists()
    make_writable(folder)
    new = folder / f"{_ASIDE}{secrets.token_hex(4)}"
    try:
        with full_disk_told(new, f"nothing is written in {folder}, and what stood there stays"):
            new.mkdir()
            yield new
            _take_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if not was_there and not any(folder.iterdir()):
            folder.rmdir()


def _take_place(new: Path, folder: Path) -> None:
    """What is in `new` takes the place of all else in the folder, which ends in `new`, to be removed with it."""
    from deformable_detr_refine.files import rename_all

    old = folder / f"{_ASIDE}{secrets.token_hex(4)}"
    aside = [(item, old / item.name) for item in folder.iterdir() if item != new]
    old.mkdir()
    try:
        rename_all([*aside, *((item, folder / item.name) for item in new.iterdir())])
    except BaseException:
        old.rmdir()
        raise
    old.rename(new / old.name)


__all__ = ["check_results_folder", "make_writable", "results_folder"]
