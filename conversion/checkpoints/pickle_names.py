"""Which names a pickle uses, found by reading its operations without running any."""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from typing import BinaryIO

_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}


def names_in_pickle(stream: BinaryIO) -> Iterator[str]:
    """The full names ('os.system') that one pickle would import, in order; the stream ends up behind the pickle.

    Names of Python 2 are given as Python 3 spells them. `STACK_GLOBAL` takes its name from the stack, where it can be
    hidden; for it the two strings pushed last are given, which is what an honest pickler writes.

    Raises:
        ValueError and others of pickletools: if these bytes are no pickle.
    """
    strings: list[str] = ["?", "?"]
    memo: dict[int, str] = {}
    for operation, argument, _ in pickletools.genops(stream):
        match operation.name:
            case name if name in _STRINGS:
                strings.append(str(argument))
            case "MEMOIZE":
                memo[len(memo)] = strings[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = strings[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                strings.append(memo.get(argument, "?"))
            case "GLOBAL" | "INST":
                module, _, name = argument.partition(" ")
                yield _python3_name(module, name)
            case "STACK_GLOBAL":
                yield _python3_name(strings[-2], strings[-1])
            case "EXT1" | "EXT2" | "EXT4":
                yield f"copyreg.extension_{argument}"


def _python3_name(module: str, name: str) -> str:
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


__all__ = ["names_in_pickle"]
