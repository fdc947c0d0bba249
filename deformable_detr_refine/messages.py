"""Text in messages and in Markdown: counts, errors, and what comes from foreign files."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def printable(text: str, longest: int = 100) -> str:
    """Text out of a foreign file, fit for a message: one line, of bounded length, without terminal escapes.

    Example:
        >>> printable("conv1.weight"), printable("\\x1b[2J")
        ('conv1.weight', '\\\\x1b[2J')
    """
    text = text[: longest + 1]
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= longest else text[: longest - 3] + "..."


def plain(text: str) -> str:
    """Text of a foreign file, unable to become markup."""
    return printable(text.replace("`", "'").replace("<", "(").replace(">", ")"), 200)


def one_line(error: BaseException) -> str:
    """An error's text in one line; its kind where it has none.

    Example:
        >>> one_line(ValueError("first\\n  second")), one_line(KeyboardInterrupt())
        ('first second', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split()) or type(error).__name__


def counted(number: int, one: str, many: str | None = None, form: str = "") -> str:
    """A number with its noun; `form` is Python's, as "," for 1,000.

    Example:
        >>> counted(1, "box", "boxes"), counted(2, "box", "boxes"), counted(0, "image")
        ('1 box', '2 boxes', '0 images')
    """
    return f"{number:{form}} {one if number == 1 else many or one + 's'}"


def escape_what_cannot_be_printed() -> None:
    """Class and file names in another script do not end a run whose output is no UTF-8, as a file is on Windows."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """transformers draws none for reading and writing weights, and afterwards does as before."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


__all__ = ["counted", "escape_what_cannot_be_printed", "one_line", "plain", "printable", "without_progress_bars"]
