"""The names of a data set's splits, however folders and files spell them."""

import re
from collections.abc import Iterable
from typing import TypeVar

from ..defects import DataError

_Place = TypeVar("_Place")

STANDARD = {
    "train": ("train", "training", "trainval"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_STANDARD_OF = {spelt: name for name, spellings in STANDARD.items() for spelt in spellings}


def standard_split(name: str) -> str | None:
    """train, validation or test, when the name of a folder or file says one of them.

    Example:
        >>> [standard_split(name) for name in ("instances_val2017", "valid", "training-mltable-folder", "images")]
        ['validation', 'validation', 'train', None]
    """
    token = split_token(name)
    return None if token is None else _STANDARD_OF[_plain(token)]


def split_token(name: str) -> str | None:
    """The part of a name that says the split: `val2017` of `instances_val2017`; the name of its folder of images."""
    return next((part for part in re.split(r"[^A-Za-z0-9]+", name) if _plain(part) in _STANDARD_OF), None)


def by_split(named: Iterable[tuple[str, _Place]]) -> dict[str, _Place]:
    """Files or folders by the split that their names say; a name that says none becomes a split of its own.

    Raises:
        DataError: two are of one split.

    Example:
        >>> by_split([("val2017", "b.json"), ("train2017", "a.json"), ("extra images", "c.json")])
        {'train': 'a.json', 'validation': 'b.json', 'extra_images': 'c.json'}
    """
    splits: dict[str, _Place] = {}
    for name, place in named:
        split = standard_split(name) or re.sub(r"\W+", "_", name).strip("_") or "train"
        if split in splits:
            raise DataError(f"{splits[split]} and {place} both look like the {split} split; give one of them.")
        splits[split] = place
    return {name: splits[name] for name in (*STANDARD, *splits) if name in splits}


def _plain(part: str) -> str:
    return part.lower().rstrip("0123456789")


__all__ = ["by_split", "split_token", "standard_split"]
