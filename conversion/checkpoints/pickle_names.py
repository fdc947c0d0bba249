"""Which names a pickle uses, found by reading its operations without running any; and how much work it would be."""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from typing import Any, BinaryIO

# A training's file of the full-size model with its optimiser and averaged weights has 112,000 operations and some
# dozens of names.
_MOST_WORK = 1_000_000
_MOST_NAMES = 1_000
# To encode so many letters, or to hash so many parts of a key, takes as long as an operation.
_SIZE_OF_A_STEP = 100
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


class TooMuchWork(ValueError):
    """A pickle asks for more than any checkpoint does."""


def names_in_pickle(stream: BinaryIO) -> Iterator[str]:
    """The full names ('os.system') that one pickle would import, in order; the stream ends up behind the pickle.

    Names of Python 2 are given as Python 3 spells them. A name that `STACK_GLOBAL` takes from what is no text is '?'.

    Each operation counts as work, and so does each use of something large that is kept: what a few bytes name again and
    again may be encoded, or hashed as a key, every time.

    Raises:
        TooMuchWork: there are more operations or names than any checkpoint has.
        ValueError and others of pickletools: if these bytes are no pickle.
    """
    # A text, or of anything else its size: of a tuple, all that is in it.
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    work = names = 0
    for operation, argument, _ in pickletools.genops(stream):
        work += 1
        taken: list[Any] = []
        match operation.name:
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else int(argument)] = stack[-1]
                continue
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo.get(int(argument or 0), 1))
                work += _size(stack[-1]) // _SIZE_OF_A_STEP
            case name if name in _STRINGS:
                stack.append(str(argument))
            case name:
                taken = _take(stack, operation)
                if name in _TUPLES:
                    stack.append(1 + sum(map(_size, taken)))
                else:
                    stack.extend(None if kind is pickletools.markobject else 1 for kind in operation.stack_after)
        if (full_name := _imported(operation.name, argument, taken)) is not None:
            names += 1
            yield full_name
        if work > _MOST_WORK or names > _MOST_NAMES:
            raise TooMuchWork("has more operations, or names of classes, than any checkpoint of such a model")


def _take(stack: list[Any], operation: pickletools.OpcodeInfo) -> list[Any]:
    """Takes from the stack what an operation takes: so many things, and with a mark (None) all above it."""
    before = operation.stack_before
    taken: list[Any] = []
    if pickletools.markobject in before:
        while (top := stack.pop()) is not None:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    return taken[::-1]


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str) else value or 1


def _imported(operation: str, argument: Any, taken: list[Any]) -> str | None:
    match operation:
        case "GLOBAL" | "INST":
            module, _, name = str(argument).partition(" ")
            return _python3_name(module, name)
        case "STACK_GLOBAL":
            module, name = (text if isinstance(text, str) else "?" for text in taken)
            return _python3_name(module, name)
        case "EXT1" | "EXT2" | "EXT4":
            return f"copyreg.extension_{argument}"
    return None


def _python3_name(module: str, name: str) -> str:
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


__all__ = ["TooMuchWork", "names_in_pickle"]
