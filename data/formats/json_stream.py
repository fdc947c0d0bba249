"""Reads a large JSON file piece by piece, and knows the line of each piece.

`json.load` of COCO's training annotations holds the text and some 3 GB of objects at once, and knows no lines.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from deformable_detr_refine.messages import printable

from ..defects import AnnotationError, DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 2**22
_LONGEST_ITEM = 2**28  # characters; no annotation comes near, so that a broken file is not read into memory whole


def stream_object(path: str | Path) -> Iterator[tuple[str, Any, int]]:
    """What a JSON file of one object holds.

    Yields:
        (key, item, line) for each item of each list of the object, and (key, value, line) for each other value.

    Raises:
        DataError: it is no JSON of that form; the message says the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "a.json")
        ...     _ = file.write_text('{"year": 2017,\\n "images": [{"id": 1},\\n {"id": 2}]}')
        ...     list(stream_object(file))
        [('year', 2017, 1), ('images', {'id': 1}, 2), ('images', {'id': 2}, 3)]
    """
    with open(path, encoding="utf-8-sig") as file:
        window = _Window(file, path)
        try:
            yield from _items(window)
        except RecursionError as error:
            raise AnnotationError(path, window.line_here(), "the JSON is nested too deeply") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not a text of UTF-8: {error}.") from error


def _items(window: "_Window") -> Iterator[tuple[str, Any, int]]:
    window.expect("{")
    if window.peek() == "}":
        return
    while True:
        if window.peek() != '"':
            window.fail("a key in quotes was expected")
        key = window.value()
        window.expect(":")
        if window.peek() == "[":
            window.expect("[")
            while window.peek() != "]":
                line = window.line_here()
                yield key, window.value(), line
                if window.peek() == ",":
                    window.expect(",")
                elif window.peek() != "]":
                    window.fail("a comma or the list's end was expected")
            window.expect("]")
        else:
            line = window.line_here()
            yield key, window.value(), line
        if window.peek() == "}":
            return
        window.expect(",")


class _Window:
    """The part of a text that is in memory, and the place in it that has been read up to."""

    def __init__(self, file: TextIO, path: str | Path):
        self._file, self._path = file, path
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no space; '' at the end."""
        while True:
            if space := _SPACE.match(self._text, self._at):
                self._at = space.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def expect(self, character: str) -> None:
        if self.peek() != character:
            self.fail(f"{character!r} was expected")
        self._at += 1

    def value(self) -> Any:
        """The next JSON value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except ValueError as error:
                if len(self._text) - self._at < _LONGEST_ITEM and self._more():
                    continue  # it may only have been cut at the window's end
                reason = error.msg if isinstance(error, json.JSONDecodeError) else printable(str(error))
                self.fail(reason)
            if end + 2 >= len(self._text) and self._more():
                continue  # a number may go on: `1` may be the begin of `1e-7`
            self._at = end
            return value

    def line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def fail(self, reason: str) -> NoReturn:
        raise AnnotationError(self._path, self.line_here(), f"this is not valid JSON: {reason}")

    def _more(self) -> bool:
        self.line_here()
        left = self._text[self._at :]
        # As much again as is left, so that a long item is not decoded from its start too often.
        if new := self._file.read(max(_CHUNK, len(left))):
            self._text, self._at, self._counted = left + new, 0, 0
        return bool(new)


__all__ = ["stream_object"]
