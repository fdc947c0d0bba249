"""The names of a data set's splits, however folders and files spell them."""

import re

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
    for part in re.split(r"[^a-z0-9]+", name.lower()):
        if (split := _STANDARD_OF.get(part.rstrip("0123456789"))) is not None:
            return split
    return None


def split_token(name: str) -> str | None:
    """The part of a name that says the split: `val2017` of `instances_val2017`; the name of its folder of images."""
    return next((part for part in re.split(r"[^A-Za-z0-9]+", name) if standard_split(part)), None)


def in_order(splits: dict) -> dict:
    """train, validation and test first, then others as they come."""
    return {name: splits[name] for name in (*STANDARD, *splits) if name in splits}


__all__ = ["in_order", "split_token", "standard_split"]
