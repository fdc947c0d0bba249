"""Whether results can be written, found out before the work."""

import tempfile
from pathlib import Path


def make_writable(folder: Path) -> None:
    """Makes a folder and holds that files can be written in it.

    Raises:
        OSError: they cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"Nothing can be written in {folder}: {error.strerror or error}.") from error
