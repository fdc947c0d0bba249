"""One dictionary of a config that was read as plain values, with errors that name the place."""

from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import described

from .mmdet_config.literals import Unknown

# What a float can hold.
_LARGEST = 1e300


class Section:
    """A dictionary of a config, and where it stands in it (`path`, empty for the whole config).

    Every reading method raises CheckpointError for a value that is no literal, or of another type than asked for;
    a key that is absent gives the default.
    """

    def __init__(self, values: dict[str, Any], path: str, where: str) -> None:
        self.values = values
        self.path = path and path + "."
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def section(self, key: str) -> "Section":
        """The dictionary under a key; an empty one where there is none."""
        value = self.any(key)
        return Section(value if isinstance(value, dict) else {}, f"{self.path}{key}", self.where)

    def value_at(self, *keys: str) -> Any:
        """What stands below these keys, or None where there is nothing that can be read; never an error."""
        value: Any = self.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return None if isinstance(value, Unknown) else value

    def any(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key, default)
        if isinstance(value, Unknown):
            line = f" (line {value.line})" if value.line else ""
            raise CheckpointError(
                f"{self.where}: {self.path}{key}{line} is not a literal, and what would compute it is not executed; "
                "write the value out."
            )
        return value

    def integer(self, key: str) -> int | None:
        return self._of_type(key, (int,), "a whole number")

    def number(self, key: str, default: float | None = None) -> float | None:
        return self._of_type(key, (int, float), "a number", default)

    def switch(self, key: str) -> bool | None:
        return self._of_type(key, (bool,), "True or False")

    def numbers(self, key: str, count: int) -> list[float] | None:
        """A list or tuple of so many numbers."""
        value = self.any(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != count or not all(_is_number(n) for n in value):
            raise CheckpointError(f"{self.where}: {self.path}{key} is {described(value)}, not {count} numbers.")
        return list(value)

    def kind(self, default: str) -> str:
        """The `type`, without a registry's scope or a module: 'ResNet' of 'mmdet.ResNet'."""
        return str(self.any("type", default)).rpartition(".")[2]

    def kind_must_be(self, allowed: tuple[str, ...], default: str) -> None:
        """Check that the `type` is one that this package's model has."""
        if self.kind(default) not in allowed:
            self.must_be("type", allowed, default)

    def must_be(self, key: str, allowed: tuple[Any, ...], default: Any) -> None:
        """Check that a value is one that this package's model has; anything else would change what it computes."""
        value = self.any(key, default)
        value = list(value) if isinstance(value, tuple) else value
        if not any(_equal(value, list(one) if isinstance(one, tuple) else one) for one in allowed):
            only = " or ".join(repr(one) for one in allowed if one is not None) or None
            raise CheckpointError(
                f"{self.where}: {self.path}{key} is {described(value)}; this package has only {only}."
            )

    def _of_type(self, key: str, types: tuple[type, ...], meaning: str, default: Any = None) -> Any:
        value = self.any(key, default)
        if value is None or (isinstance(value, types) and (types == (bool,) or _is_number(value))):
            return value
        raise CheckpointError(f"{self.where}: {self.path}{key} is {described(value)}, not {meaning}.")


def _equal(value: Any, one: Any) -> bool:
    try:
        return bool(value == one)
    except (ValueError, RuntimeError):  # an array or a tensor, which has no single answer
        return False


def _is_number(value: Any) -> bool:
    # Neither infinite nor NaN, which are below nothing.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


__all__ = ["Section"]
