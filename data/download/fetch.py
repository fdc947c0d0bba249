"""Download an archive: with a progress bar and limits, from the first of its addresses that answers."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling.url_io import copy_url, is_url

from ..defects import DataError

MAX_ARCHIVE_BYTES = 2**30
TIMEOUT_SECONDS = 3600.0


def fetch(sources: Sequence[str], file: BinaryIO, max_bytes: int = MAX_ARCHIVE_BYTES) -> str:
    """Fills an open file from the first source that can be read; a part of an earlier one does not stay in it.

    Args:
        sources: http or https addresses, or paths of files.
        file: open for writing and seeking, and empty. Afterwards it stands at its start.

    Returns:
        The source that was taken.

    Raises:
        OSError: none can be read; the message tells of each.
        DataError: one is longer than `max_bytes`.
    """
    failures = []
    for source in sources:
        file.seek(0)
        file.truncate()
        try:
            if is_url(source):
                _download(source, file, max_bytes)
            else:
                _copy(Path(source), file, max_bytes)
        except OSError as error:
            failures.append(str(error))
            continue
        file.seek(0)
        return source
    raise OSError(" ".join(failures))


def _download(url: str, file: BinaryIO, max_bytes: int) -> None:
    with tqdm(desc=url.rsplit("/", 1)[-1], unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar:

        def show(length: int, total: int | None) -> None:
            bar.total = total
            bar.update(length)

        copy_url(url, file, timeout=TIMEOUT_SECONDS, max_bytes=max_bytes, progress=show)


def _copy(path: Path, file: BinaryIO, max_bytes: int) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}{near(path)}")
    if path.stat().st_size > max_bytes:
        raise DataError(f"{path} is longer than {max_bytes / 2**20:.0f} MiB.")
    with path.open("rb") as source:
        shutil.copyfileobj(source, file)


__all__ = ["fetch"]
