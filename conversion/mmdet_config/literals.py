"""Read the literals of a Python expression or config text with `ast`. Nothing is executed.

Understood: literals, `dict()`, `list()`, `tuple()`, names assigned before, items of known containers, signs, + - * / of
numbers, + of strings and lists. Everything else becomes `Unknown`, which hurts only who asks for that value.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

# No honest config comes near these; they keep a crafted one from growing without end.
_MOST_READ = 500_000
_DEEPEST = 100
_LARGEST = 1 << 64

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CONTAINERS = {"dict": dict, "list": list, "tuple": tuple}


class Unknown:
    """A value that is not a literal. `line` says where it stands."""

    def __init__(self, node: ast.AST) -> None:
        self.line = getattr(node, "lineno", None)

    def __repr__(self) -> str:
        return f"<not a literal, line {self.line}>"


class Names(dict[str, Any]):
    """name -> value of what a text assigns. To read one costs its size, and all readings together have a bound: nothing
    else makes a value larger than the text that it is written in."""

    _read = 0

    def read(self, value: Any) -> Any:
        """The value itself.

        Raises:
            TooLarge: the text reads more than any config does, or the value is too deep, as one that holds itself is.
        """
        parts = [(value, 0)]
        while parts:
            part, depth = parts.pop()
            self._read += len(part) if isinstance(part, str) else 1
            if self._read > _MOST_READ or depth > _DEEPEST:
                raise TooLarge("grows, by its own names, larger or deeper than any config")
            inner = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
            parts += [(item, depth + 1) for item in inner]
        return value


class TooLarge(ValueError):
    """A text whose values grow without end."""


def literal(node: ast.expr, names: Names) -> Any:
    """The value of an expression, or `Unknown`.

    Args:
        node: the expression.
        names: the values of the names it may use.

    Raises:
        TooLarge: see `Names`.
    """
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.read(names.get(node.id, Unknown(node)))
        case ast.List() | ast.Tuple():
            return _sequence(node, names)
        case ast.Dict():
            return _dictionary(zip(node.keys, node.values, strict=True), node, names)
        case ast.Call(func=ast.Name(id=name)) if name in _CONTAINERS and name not in names:
            return _call(name, node, names)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            value = literal(node.operand, names)
            if isinstance(value, (int, float)):
                return -value if isinstance(node.op, ast.USub) else +value
        case ast.UnaryOp(op=ast.Not()):
            value = literal(node.operand, names)
            return value if isinstance(value, Unknown) else not value
        case ast.BinOp():
            return _arithmetic(node, names)
        case ast.Subscript():
            return names.read(_item(container(node.value, names), literal(node.slice, names), node))
        case ast.Attribute(value=value, attr=key):
            owner = container(value, names)
            return names.read(_item(owner, key, node)) if isinstance(owner, dict) else Unknown(node)
        # `{{_base_.name}}`: MMEngine's way of writing a value of a base file.
        case ast.Set(elts=[ast.Set(elts=[ast.Attribute() as inner])]):
            return literal(inner, names)
    return Unknown(node)


def container(node: ast.expr, names: Names) -> Any:
    """What an item is taken from; of a name, without the cost of reading all of it."""
    return names.get(node.id, Unknown(node)) if isinstance(node, ast.Name) else literal(node, names)


def _sequence(node: ast.List | ast.Tuple, names: Names) -> Any:
    values: list[Any] = []
    for element in node.elts:
        if not isinstance(element, ast.Starred):
            values.append(literal(element, names))
            continue
        inner = literal(element.value, names)
        if not isinstance(inner, (list, tuple)):
            return Unknown(element)
        values.extend(inner)
    return tuple(values) if isinstance(node, ast.Tuple) else values


def _dictionary(pairs: Any, node: ast.AST, names: Names) -> Any:
    """Of pairs (key expression, or None for `**value`; value expression)."""
    result: dict[Any, Any] = {}
    for key_node, value_node in pairs:
        value = literal(value_node, names)
        if key_node is None:
            if not isinstance(value, dict):
                return Unknown(node)
            result.update(value)
            continue
        key = key_node if isinstance(key_node, str) else literal(key_node, names)
        if not isinstance(key, (str, int, float)):
            return Unknown(node)
        result[key] = value
    return result


def _call(name: str, node: ast.Call, names: Names) -> Any:
    if name == "dict" and len(node.args) <= 1:
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        return _dictionary([(None, value) for value in node.args] + pairs, node, names)
    if len(node.args) > 1 or node.keywords:
        return Unknown(node)
    value = literal(node.args[0], names) if node.args else ()
    return _CONTAINERS[name](value) if isinstance(value, (list, tuple)) else Unknown(node)


def _arithmetic(node: ast.BinOp, names: Names) -> Any:
    left, right = literal(node.left, names), literal(node.right, names)
    numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if numbers and type(node.op) in _OPERATORS and abs(left) < _LARGEST and abs(right) < _LARGEST:
        return Unknown(node) if isinstance(node.op, ast.Div) and not right else _OPERATORS[type(node.op)](left, right)
    if type(left) is type(right) and isinstance(left, (str, list, tuple)) and isinstance(node.op, ast.Add):
        return _OPERATORS[ast.Add](left, right)
    return Unknown(node)


def _item(owner: Any, key: Any, node: ast.AST) -> Any:
    try:
        return owner[key] if isinstance(owner, (dict, list, tuple)) else Unknown(node)
    except (KeyError, IndexError, TypeError):
        return Unknown(node)


__all__ = ["Names", "TooLarge", "Unknown", "container", "literal"]
