"""Read an MMEngine or MMCV config, a Python text, without executing it."""

import ast
from pathlib import Path
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import near

from .literals import Names, TooLarge, Unknown, container, literal

_LONGEST_TEXT = 1_000_000
_DEEPEST_BASE = 20


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The assignments of a config file, with the files that its `_base_` names merged underneath.

    Raises:
        FileNotFoundError: the file, or one of its bases, does not exist.
        CheckpointError: it cannot be read.
    """
    return _read_file(Path(path), ())


def read_config_text(text: str, where: str) -> dict[str, Any]:
    """The assignments of a config text that stands alone, such as the one a checkpoint carries.

    Args:
        text: Python text.
        where: what to call it in messages.

    Raises:
        CheckpointError: it is no Python text, or needs `_base_` files.
    """
    module = _parse(text, where)
    if any((assigned := _assigned(statement)) and assigned[0] == "_base_" for statement in module.body):
        raise CheckpointError(f"{where} builds on _base_ files that are not with it; give the config file (--config).")
    return _assignments(module, {}, where)


def _read_file(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if not path.is_file():
        needed = f", which {above[-1]} builds on" if above else ""
        raise FileNotFoundError(f"There is no config file {path}{needed}{near(path)}")
    if path.resolve() in above or len(above) > _DEEPEST_BASE:
        raise CheckpointError(f"The _base_ files of {path} go round in a circle.")
    module = _parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    base: dict[str, Any] = {}
    for name in _base_names(module, path):
        part = _read_file(path.parent / name, (*above, path.resolve()))
        if twice := sorted(base.keys() & part.keys()):
            raise CheckpointError(f"{path}: more than one of its _base_ files sets {', '.join(twice)}.")
        base.update(part)
    return _merge(base, _assignments(module, base, str(path)), str(path))


def _reads_bases(statement: ast.stmt) -> bool:
    """`with read_base():` or `if '_base_':` around imports."""
    match statement:
        case ast.With():
            return "read_base" in ast.dump(statement)
        case ast.If(test=ast.Constant(value="_base_")):
            return True
    return False


def _base_names(module: ast.Module, path: Path) -> list[str]:
    for statement in module.body:
        if _reads_bases(statement):
            raise CheckpointError(
                f"{path} is a config of MMEngine's pure Python style (read_base), which would have to be executed; "
                "give the text that training writes of it into its work directory, or none if the checkpoint has it."
            )
        if (assigned := _assigned(statement)) is None or assigned[0] != "_base_":
            continue
        try:
            value = literal(assigned[1], Names())
        except RecursionError:
            value = Unknown(statement)
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                f"{path}, line {statement.lineno}: _base_ is not a literal, so it cannot be followed."
            )
        if remote := [name for name in names if "::" in name or "://" in name]:
            raise CheckpointError(
                f"{path} builds on {remote[0]}, which is not a file beside it; give the dumped config."
            )
        return list(names)
    return []


def _parse(text: str, where: str) -> ast.Module:
    if len(text) > _LONGEST_TEXT:
        raise CheckpointError(f"{where} is too long for a config ({len(text)} characters).")
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{where} is not the Python text of a config: {error}.") from error


def _assignments(module: ast.Module, base: dict[str, Any], where: str) -> dict[str, Any]:
    """name -> value after the last statement; values are literals or hold `Unknown`s."""
    names = Names(_base_=base)
    try:
        for statement in module.body:
            _follow(statement, names)
        names.read(dict(names))
    except RecursionError as error:
        raise CheckpointError(f"{where} is nested too deeply to be read.") from error
    except TooLarge as error:
        raise CheckpointError(f"{where} {error}.") from error
    return {name: value for name, value in names.items() if not name.startswith("_")}


def _follow(statement: ast.stmt, names: Names) -> None:
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.Pass():
            pass
        case ast.Assign(targets=[ast.Name(id="_base_")]):
            pass
        case ast.Assign(targets=targets) if all(isinstance(target, ast.Name) for target in targets):
            value = literal(statement.value, names)
            names.update({target.id: value for target in targets if isinstance(target, ast.Name)})
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            names[name] = literal(value, names)
        case ast.AugAssign(target=ast.Name(id=name)):
            left = ast.copy_location(ast.Name(id=name, ctx=ast.Load()), statement)
            sum_ = ast.copy_location(ast.BinOp(left=left, op=statement.op, right=statement.value), statement)
            names[name] = literal(sum_, names)
        case ast.Assign(targets=[ast.Subscript(value=owner, slice=key)]):
            target, index = container(owner, names), literal(key, names)
            if isinstance(target, dict) and isinstance(index, (str, int)):
                target[index] = literal(statement.value, names)
            else:
                _forget(statement, names)
        case _:
            _forget(statement, names)


def _forget(statement: ast.stmt, names: dict[str, Any]) -> None:
    """A statement that is not understood may have changed whatever it names."""
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name):
                pass
            case ast.alias(name=name, asname=alias):
                name = alias or name.split(".")[0]
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case _:
                continue
        if name != "_base_":
            names[name] = Unknown(statement)


def _merge(base: dict[str, Any], child: dict[str, Any], where: str) -> dict[str, Any]:
    """MMEngine's rule: dictionaries merge key by key, unless the child says `_delete_=True`; others are replaced."""
    result = dict(base)
    for key, value in child.items():
        if not isinstance(value, dict):
            result[key] = value
            continue
        inherited = result.get(key)
        fresh = {name: item for name, item in value.items() if name != "_delete_"}
        if value.get("_delete_") or key not in result:
            result[key] = _merge({}, fresh, where)
        elif isinstance(inherited, dict):
            result[key] = _merge(inherited, fresh, where)
        elif not isinstance(inherited, Unknown):
            raise CheckpointError(
                f"{where}: {key} is a dictionary here and a {type(inherited).__name__} in its _base_; "
                "_delete_=True would replace it."
            )
    return result


def _assigned(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, value
    return None


__all__ = ["read_config_file", "read_config_text"]
