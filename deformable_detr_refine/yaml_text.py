"""YAML that others wrote: no larger than it looks, whatever its aliases and merges say."""

from typing import Any

import yaml

MOST_VALUES = 100_000


def read_yaml(text: str) -> Any:
    """The content of a YAML text; executes nothing.

    An alias costs its author two characters and the reader all that it stands for, so what the text becomes is counted
    before it is made.

    Raises:
        ValueError: it is no YAML, or its aliases become more than 100,000 values.

    Example:
        >>> read_yaml("a: &x [1, 2]\\nb: *x")
        {'a': [1, 2], 'b': [1, 2]}
        >>> read_yaml("a: &x [*x]")
        Traceback (most recent call last):
        ...
        ValueError: a value holds itself
    """
    root = compose_yaml(text)
    try:
        return None if root is None else yaml.SafeLoader("").construct_document(root)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a YAML text, which know their lines.

    Raises:
        ValueError: see `read_yaml`.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and (count := _values(root, {})) > max(MOST_VALUES, len(text)):
            raise ValueError(f"its aliases make {count:.3g} values of {len(text)} characters")
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return root


def _values(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """How many values a node becomes; each is counted once, however often it is named."""
    if node in counted:
        if not counted[node]:
            raise ValueError("a value holds itself")
        return counted[node]
    counted[node] = 0
    parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else ()
    inner = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
    counted[node] = 1 + sum(_values(part, counted) for part in inner)
    return counted[node]


__all__ = ["compose_yaml", "read_yaml"]
