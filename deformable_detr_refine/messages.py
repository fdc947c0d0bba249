"""Text in messages and in Markdown: counts, errors, and what comes from foreign files."""

import io
import json
import os
import reprlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path

# Python takes them for unprintable; they are letters' joiners, in Persian and in emoji, and wide blanks.
_HARMLESS = "\u200c\u200d\u00a0\u3000"
_MARKUP = str.maketrans("`<>[]", "'()()")
_MOST_NAMES = 2000  # of a folder, to be compared with one that is not there
_BOUNDED = reprlib.Repr()
_BOUNDED.maxstring = _BOUNDED.maxother = 100


def printable(text: str, longest: int = 100) -> str:
    """Text out of a foreign file, fit for a message: one line, of bounded length, without terminal escapes.

    Example:
        >>> print(printable("café.weight\\x1b[2J"))
        café.weight\\x1b[2J
    """
    text = without_controls(text[: longest + 1])
    return text if len(text) <= longest else text[: longest - 3] + "..."


def described(value: object) -> str:
    """A value out of a foreign file, fit for a message; however large or nested it is, a bounded part is looked at.

    Example:
        >>> described([1, "a", None, 4, 5, 6, 7, 8])
        "[1, 'a', None, 4, 5, 6, ...]"
    """
    return printable(_BOUNDED.repr(value))


def without_controls(text: str, keep: str = "") -> str:
    """The text with control and direction characters, and halves of surrogate pairs, escaped.

    JSON stays what it is: those that it lets stand are escaped in its own way.

    Args:
        keep: control characters that stay.

    Example:
        >>> print(without_controls("\\u202egpj.exe\\n", keep="\\n"), end="")
        \\u202egpj.exe
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _HARMLESS or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return ascii(character)[1:-1] if character < " " else json.dumps(character)[1:-1]


def plain(text: str) -> str:
    """Text of a foreign file, unable to become markup: neither HTML nor a link or a picture of Markdown.

    Example:
        >>> plain("<b> ![](https://example.org/a.png)")
        '(b) !()(https://example.org/a.png)'
    """
    return printable(text.translate(_MARKUP), 200)


def one_line(error: BaseException) -> str:
    """An error's text in one line; its kind where it has none.

    Example:
        >>> one_line(ValueError("first\\n  second")), one_line(KeyboardInterrupt())
        ('first second', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split()) or type(error).__name__


def near(path: str | Path) -> str:
    """The end of a sentence about a path at which there is not what was looked for: what is there, or may be meant.

    Example:
        >>> near("no/such/folder/photo.jpg")
        ': check the path.'
    """
    with suppress(OSError, ValueError):
        if os.path.isdir(path):
            return ": what is there is a folder."
        if os.path.isfile(path):
            return ": check the path."
        if os.path.lexists(path):
            return ": what is there is none (a pipe, a device, or a link that leads nowhere)."
        path, below = Path(path), Path()
        while path != path.parent and not path.parent.is_dir():  # perhaps a folder's name is mistyped
            path, below = path.parent, path.name / below
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _MOST_NAMES)]
        for meant in get_close_matches(path.name, names, n=1, cutoff=0.75):
            if (there := path.parent / meant / below).exists():
                return f": did you mean {printable(str(there))}?"
    return ": check the path."


def counted(number: int, one: str, many: str | None = None, form: str = "") -> str:
    """A number with its noun; `form` is Python's, as "," for 1,000.

    Example:
        >>> counted(1, "box", "boxes"), counted(2, "box", "boxes"), counted(0, "image")
        ('1 box', '2 boxes', '0 images')
    """
    return f"{number:{form}} {one if number == 1 else many or one + 's'}"


def escape_what_cannot_be_printed() -> None:
    """Nothing that a run prints moves the cursor, turns the writing around, or ends the run.

    Names out of foreign files reach stdout and stderr by many ways, other packages' among them. Control and direction
    characters are escaped on all of them, and so is another script where the output is no UTF-8, as a file on Windows.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            stream.write = partial(_write, stream)  # pyright: ignore[reportAttributeAccessIssue]


def _write(stream: io.TextIOWrapper, text: str) -> int:
    # A bar of tqdm below another moves the cursor, and writes nothing else at a time.
    if text.strip("\n\x1b[A"):
        text = without_controls(text, keep="\n\r\t")
    return type(stream).write(stream, text)


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


__all__ = [
    "counted",
    "escape_what_cannot_be_printed",
    "near",
    "one_line",
    "plain",
    "printable",
    "without_controls",
    "without_progress_bars",
]
