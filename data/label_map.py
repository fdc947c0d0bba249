"""The classes of a data set: names, order, and the data set's own ids."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling.setting_checks import MOST_CLASSES

from .defects import DataError


@dataclass(frozen=True)
class LabelMap:
    """Label i of the model is the class `names[i]`, which the data set itself calls `category_ids[i]`.

    Args:
        names: the class names, each once, in the order of the model's labels.
        category_ids: the data set's own id of each class, a whole number or a text; without them 0, 1, 2, ...

    Raises:
        DataError: no name or more than 100,000, an empty name, a name or an id twice, other ids than names.

    Example:
        >>> fruit = LabelMap(("apple", "pear"), (3, 7))
        >>> fruit.id2label, fruit.label2id
        ({0: 'apple', 1: 'pear'}, {'apple': 0, 'pear': 1})
        >>> LabelMap(["apple", "pear"]).category_ids
        (0, 1)
    """

    names: tuple[str, ...]
    category_ids: tuple[int | str, ...] = ()

    def __post_init__(self):
        names = tuple(str(name) for name in self.names)
        given = (number if isinstance(number, str) else int(number) for number in self.category_ids)
        ids = tuple(given) or tuple(range(len(names)))
        if not names:
            raise DataError("There is no class name: the data set holds no object, and names no class.")
        if len(names) > MOST_CLASSES:
            raise DataError(f"{len(names):,} classes are named, the most are {MOST_CLASSES:,}.")
        if not all(name.strip() for name in names):
            raise DataError(f"Class number {[bool(name.strip()) for name in names].index(False)} has an empty name.")
        if broken := next((name for name in names if re.search("[\ud800-\udfff]", name)), None):
            raise DataError(f"The class name {printable(broken)!r} holds half a character; write it anew.")
        if len(ids) != len(names):
            raise DataError(f"{len(ids)} category ids do not go with {len(names)} class names.")
        for what, values in (("class name", names), ("category id", ids)):
            if (twice := _first_twice(values)) is not None:
                raise DataError(f"The {what} {printable(str(twice))!r} stands twice; each class needs its own.")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "category_ids", ids)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def id2label(self) -> dict[int, str]:
        """Name of each label, as a model's config holds it."""
        return dict(enumerate(self.names))

    @cached_property
    def label2id(self) -> dict[str, int]:
        """Label of each name."""
        return {name: label for label, name in enumerate(self.names)}

    @classmethod
    def from_config(cls, config: Any) -> "LabelMap":
        """The label map of a model's config: its `id2label` and its `category_ids`, where they fit.

        Example:
            >>> from types import SimpleNamespace
            >>> LabelMap.from_config(SimpleNamespace(id2label={0: "can", 1: "carton"}, category_ids=[1, 2]))
            LabelMap(names=('can', 'carton'), category_ids=(1, 2))
        """
        labels = {int(label): name for label, name in config.id2label.items()}
        if sorted(labels) != list(range(len(labels))):
            raise DataError(f"id2label holds the labels {sorted(labels)[:5]}..., expected 0 to {len(labels) - 1}.")
        ids = getattr(config, "category_ids", None) or ()
        # Those of other classes stay behind where a loaded model was given new ones.
        return cls(tuple(labels[label] for label in range(len(labels))), tuple(ids) if len(ids) == len(labels) else ())


def merge(declared: Mapping[str, LabelMap | None], used: Iterable[str]) -> LabelMap:
    """One label map for all splits of a data set.

    Args:
        declared: of each split, the classes that it declares, or None where its form declares none (Pascal VOC).
        used: the names its objects have, for forms that declare none: they are sorted.

    Returns:
        The declared classes of all splits by rising id; a split that lacks a class does not matter.

    Raises:
        DataError: two splits give one id to two names, or two ids to one name.

    Example:
        >>> train, validation = LabelMap(("cat", "cow"), (1, 5)), LabelMap(("dog", "cow"), (3, 5))
        >>> merge({"train": train, "validation": validation}, ())
        LabelMap(names=('cat', 'dog', 'cow'), category_ids=(1, 3, 5))
        >>> merge({"train": None}, {"pear", "apple"})
        LabelMap(names=('apple', 'pear'), category_ids=(0, 1))
    """
    maps = [(split, label_map) for split, label_map in declared.items() if label_map is not None]
    if not maps:
        return LabelMap(tuple(sorted(set(used))))
    if all(label_map == maps[0][1] for _, label_map in maps):
        return maps[0][1]  # in the order of the file, where the ids do not rise
    by_id: dict[int | str, str] = {}
    ids: dict[str, int | str] = {}
    for split, label_map in maps:
        for name, number in zip(label_map.names, label_map.category_ids, strict=True):
            if by_id.setdefault(number, name) != name:
                raise DataError(
                    f"Category {number} is {printable(name)!r} in {split} and "
                    f"{printable(by_id[number])!r} in another split; "
                    "one data set needs one set of classes."
                )
            if ids.setdefault(name, number) != number:
                raise DataError(
                    f"{printable(name)!r} is category {number} in {split} and {ids[name]} in another split; "
                    "one data set needs one set of classes."
                )
    rising = sorted(by_id, key=lambda number: (isinstance(number, str), number))
    return LabelMap(tuple(by_id[number] for number in rising), tuple(rising))


def read_label_map(file: Path) -> LabelMap:
    """Reads what `write_label_map` wrote.

    Raises:
        DataError: it is no label map.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return LabelMap(tuple(content["names"]), tuple(content["category_ids"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{file} is no label map ({{names: [...], category_ids: [...]}}): {error}.") from error


def write_label_map(label_map: LabelMap, file: Path) -> None:
    """Keeps the classes and their ids in a file, for forms that have no room for the ids."""
    content = {"names": label_map.names, "category_ids": label_map.category_ids}
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _first_twice(values: tuple) -> Any:
    seen: set = set()
    return next((value for value in values if value in seen or seen.add(value)), None)


__all__ = ["LabelMap", "merge", "read_label_map", "write_label_map"]
