"""Inert stand-ins: what the names inside a checkpoint's pickle become, so that none of them can do anything.

Objects of mmengine, mmcv and mmdet, and argparse's namespace, become `Record`s, which hold arguments and state and have
no behaviour. numpy's own unpickling is never called, since a crafted dtype can make it read bytes as pointers: scalars
and arrays are decoded here, from plain numeric dtypes only.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, Self

import numpy as np

FOREIGN_PACKAGES = ("mmengine", "mmcv", "mmdet", "mmdetection", "addict")
# What main.py of the authors' repository saves its arguments in: this name and no class made from it.
_NAMESPACE = "argparse.Namespace"

# What a state dict is made of. torch's own list is longer; none of the rest is needed, and some of it allocates
# memory or sets attributes at the file's wish.
_TORCH_NAMES = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.set|torch\.(Size|device)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch(\.cuda)?\.[A-Z][A-Za-z0-9]*Storage"
    r"|torch\.(b?float|u?int|complex|float8_e)[0-9a-z_]*|torch\.(bool|half|double|long|short)"
)
_PLAIN_DTYPE = re.compile(r"[fiu][1248]|b1|c8|c16|[SU][0-9]{1,6}")


class Record:
    """What stands where an object of a foreign class stood.

    Attributes:
        source: full name of the class that the file names.
        arguments: what it would have been called with.
        state: what it would have been given afterwards, or None.
    """

    __slots__ = ("arguments", "state")
    source = ""

    def __new__(cls, *arguments: Any) -> Self:
        self = super().__new__(cls)
        self.arguments = arguments
        self.state = None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<inert {self.source}>"


def record_class(source: str) -> type[Record]:
    """A class of records for one name of the file."""
    return type(source.rpartition(".")[2], (Record,), {"__slots__": (), "source": source})


class Attribute(Record):
    """What `getattr(owner, name)` gives: the fact that the file asked for it, and nothing else."""

    __slots__ = ()
    source = "builtins.getattr"


def read_attribute(owner: Any, name: Any, *default: Any) -> Attribute:
    """Stand-in for `getattr`; MMEngine's history buffers name their statistics methods this way."""
    if not (isinstance(owner, type) and issubclass(owner, Record)) or not isinstance(name, str):
        raise UnpicklingError("refuses getattr on anything but a class of MMEngine's")
    return Attribute(owner.source, name)


class NumpyDtype:
    """Stand-in for `numpy.dtype`: the code and the byte order that the file gives."""

    __slots__ = ("code", "order")

    def __new__(cls, *arguments: Any) -> "NumpyDtype":
        self = super().__new__(cls)
        self.code = arguments[0] if arguments else None
        self.order = "="
        return self

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        self.order = order if isinstance(order, str) else None

    def resolve(self) -> np.dtype:
        """The real dtype, if it is a plain one: bool, integer, float, complex or text of fixed width."""
        is_plain = (
            isinstance(self.code, str) and _PLAIN_DTYPE.fullmatch(self.code) and self.order in {"<", ">", "|", "="}
        )
        if not is_plain:
            raise UnpicklingError(f"refuses a numpy dtype {self.code!r}: only numbers and fixed-width text are read")
        return np.dtype(self.code).newbyteorder(self.order)


class NumpyArray(np.ndarray):
    """Stand-in for `numpy.ndarray`: an array whose content is checked before it is taken."""

    def __new__(cls, *arguments: Any) -> "NumpyArray":
        return super().__new__(cls, (0,), dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, tuple(shape), NumpyDtype() as kind, order, bytes(data)):
                dtype = kind.resolve()
            case _:
                raise UnpicklingError("refuses a numpy array that is not plain numbers (an object array?)")
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
            raise UnpicklingError(f"finds a numpy array of shape {shape} whose bytes do not fit it")
        plain: Any = (1, shape, dtype, bool(order), data)
        super().__setstate__(plain)


def rebuild_array(subtype: Any, *arguments: Any) -> NumpyArray:
    """Stand-in for numpy's `_reconstruct`; the array's content comes with its state."""
    if subtype is not NumpyArray:
        raise UnpicklingError("refuses a numpy array of a class other than numpy.ndarray")
    return NumpyArray()


def rebuild_scalar(dtype: Any, data: Any) -> np.generic:
    """Stand-in for numpy's `scalar`."""
    if not isinstance(dtype, NumpyDtype) or not isinstance(data, bytes):
        raise UnpicklingError("refuses a numpy scalar that is not a plain number")
    resolved = dtype.resolve()
    if len(data) != resolved.itemsize:
        raise UnpicklingError(f"finds a numpy scalar {dtype.code!r} of {len(data)} bytes")
    return np.frombuffer(data, dtype=resolved)[0]


_STAND_INS: dict[str, Callable] = {
    "builtins.getattr": read_attribute,
    "numpy.dtype": NumpyDtype,
    "numpy.ndarray": NumpyArray,
    **{f"numpy.{core}.multiarray._reconstruct": rebuild_array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": rebuild_scalar for core in ("core", "_core")},
}


def is_known(name: str) -> bool:
    """Whether torch's restricted unpickler may be left to deal with a name by itself."""
    return _TORCH_NAMES.fullmatch(name) is not None


def stand_in(name: str) -> Callable | None:
    """What a full name of the file becomes, or None where the name has to be refused."""
    if name in _STAND_INS:
        return _STAND_INS[name]
    if name != _NAMESPACE and name.split(".")[0] not in FOREIGN_PACKAGES:
        return None
    # Dictionaries with attribute access: their items are wanted, and torch's unpickler fills OrderedDict only.
    return OrderedDict if name.endswith((".ConfigDict", "addict.Dict")) else record_class(name)


__all__ = ["Record", "is_known", "stand_in"]
