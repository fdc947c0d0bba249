"""A run's settings: a YAML file, and `--key value` on top of it."""

import json
from argparse import Action
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from deformable_detr_refine.messages import near, one_line
from deformable_detr_refine.yaml_text import compose_yaml, read_yaml

from .arguments import DataArguments, DetectionTrainingArguments, ModelArguments
from .setting_values import fault_of

_PLAIN = (str, int, float, bool, list, dict, Enum)
# Not of the recipe: where this one run went on from, and what nobody else may read.
_UNWRITTEN = ("resume_from_checkpoint", "hub_token", "push_to_hub_token")
_COMMAND_LINE = "the command line"
Settings = tuple[ModelArguments, DataArguments, DetectionTrainingArguments]


class SettingsParser(HfArgumentParser):
    """transformers' parser; what is wrong is an exception instead of pages of usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def action(self, word: str) -> Action | None:
        """The setting that `--word` names, if there is one."""
        return self._option_string_actions.get(word)

    @property
    def names(self) -> list[str]:
        """Of all settings, without dashes."""
        return [field.name for kind in self.dataclass_types for field in fields(kind) if field.init]


def read_settings(words: Sequence[str]) -> Settings:
    """Reads `[CONFIG.yaml] [--key value ...]`; what stands on the command line wins, in a mapping key by key.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a flat YAML mapping, or a key or a value is not known; the message says where it
            stands and what was expected.
    """
    settings_parser, words = parser(), list(words)
    file = Path(words.pop(0)) if words and not words[0].startswith("--") else None
    given = [*(_of_file(file, settings_parser) if file else ()), *_of_command_line(words, settings_parser)]
    for where, setting in given:
        asked, setting[0] = setting[0], _known_name(setting[0], settings_parser)
        _check(settings_parser, where, setting, asked)
    model, data, training = settings_parser.parse_args_into_dataclasses(
        _merged([setting for _, setting in given]), look_for_args_file=False
    )
    on_command_line = {setting[0].partition("=")[0] for where, setting in given if where == _COMMAND_LINE}
    # In a file they may be of the recipe, which the command line's detector then leaves out.
    if model.model and model.backbone_weights and "--backbone_weights" in on_command_line:
        raise ValueError(
            "Give --model or --backbone_weights, not both: a trained detector has the weights of its backbone."
        )
    return model, data, training


def parser() -> SettingsParser:
    """The parser of all settings; `--help` lists them."""
    kinds = (ModelArguments, DataArguments, DetectionTrainingArguments)
    # transformers wants a NewType of Any, which no class is.
    settings_parser = SettingsParser(cast("Any", kinds), prog="ddetr train")
    settings_parser.allow_abbrev = False
    for action in settings_parser._actions:
        if action.nargs == "+":
            action.nargs = "*"  # an empty list is a list, too
    return settings_parser


def given_settings(settings: Settings) -> dict[str, Any]:
    """What was given and differs from the defaults."""
    model, data, training = settings
    changed: dict[str, Any] = {}
    for part in (model, data):
        fresh = type(part)()
        values = {item.name: getattr(part, item.name) for item in fields(part)}
        changed |= {name: value for name, value in values.items() if value != getattr(fresh, name)}
    changed |= training.given
    for name in ("model_config", "augmentation"):
        if str(changed.get(name, "")).startswith(("{", "[")):
            changed[name] = json.loads(changed[name])
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in changed.items()
        if isinstance(value, _PLAIN) and name not in _UNWRITTEN
    }


def settings_text(settings: Settings) -> str:
    """What was given and differs from the defaults, as the YAML of a settings file that gives the same run."""
    return yaml.safe_dump(given_settings(settings), sort_keys=False, allow_unicode=True)


def _merged(settings: Sequence[list[str]]) -> list[str]:
    """The words of all settings. The last of a name counts; of mappings, each of their keys."""
    kept: dict[str, list[str]] = {}
    for setting in settings:
        name = setting[0].partition("=")[0]
        earlier, mapping = _mapping(kept.pop(name, [])), _mapping(setting)
        kept[name] = setting if earlier is None or mapping is None else [name, json.dumps(earlier | mapping)]
    return [word for setting in kept.values() for word in setting]


def _mapping(setting: list[str]) -> dict[str, Any] | None:
    """The value of `--key JSON` or `--key=JSON` where it is a mapping."""
    _, _, text = "=".join(setting).partition("=")
    with suppress(ValueError, RecursionError):
        return value if isinstance(value := json.loads(text), dict) else None


def _known_name(word: str, settings_parser: SettingsParser) -> str:
    """transformers 5.24 calls gradient_checkpointing activation_checkpointing; with every release either is taken."""
    names = "--gradient_checkpointing", "--activation_checkpointing"
    old, new = names if settings_parser.action(names[1]) else reversed(names)
    name, *value = word.removeprefix("--").split("=", 1)
    return "=".join((f"--{name.replace('-', '_')}".replace(old, new, 1), *value))


def _check(settings_parser: SettingsParser, where: str, setting: list[str], asked: str) -> None:
    """That one setting, `--key` and its values, can be used; `asked` is the key as it was given."""
    values, key = setting[1:], asked.partition("=")[0]
    name, action = key.removeprefix("--"), settings_parser.action(setting[0].partition("=")[0])
    if action is None:
        names, asked = settings_parser.names, name.replace("-", "_")
        near = [name for name in names if name.startswith(asked)] or get_close_matches(asked, names, 1)
        raise ValueError(
            f"{where}: there is no setting {name!r}{f', did you mean {near[0]!r}?' if near else '.'} "
            "`ddetr train --help-all` lists all."
        )
    try:
        parsed, rest = settings_parser.parse_known_args(setting)
    except ValueError:
        if action.type is string_to_bool and values and _is_yaml(values[-1]):
            raise _file_first(values[-1], key) from None
        said = f"is {' '.join(values)!r}" if values else "has no value"
        raise ValueError(f"{where}: {name} {said}, expected {_expected(action)}.") from None
    if rest:
        if _is_yaml(rest[0]):
            raise _file_first(rest[0], key)
        raise ValueError(f"{where}: {name} is {' '.join(values)!r}, expected {_expected(action)}.")
    if fault := fault_of(action.dest, getattr(parsed, action.dest)):
        raise ValueError(f"{where}: {name} is {' '.join(values)!r}, {fault}.")


def _is_yaml(word: str) -> bool:
    return word.lower().endswith((".yaml", ".yml"))


def _file_first(file: str, key: str) -> ValueError:
    return ValueError(f"The settings file comes first: ddetr train {file} {key} ...")


def _expected(action: Action) -> str:
    if action.choices:
        return f"one of {', '.join(map(str, action.choices))}"
    names = {int: "whole number", float: "number", str: "text"}
    if action.type is string_to_bool:
        return "true or false"
    name = names.get(action.type, "value")
    return f"a list, each item a {name}" if action.nargs == "*" else f"one {name}" if name == "text" else f"a {name}"


def _of_command_line(words: Sequence[str], settings_parser: SettingsParser) -> Iterator[tuple[str, list[str]]]:
    """Each `--key` with the words after it."""
    setting: list[str] = []
    for word in words:
        if word.startswith("--") and setting:
            yield _COMMAND_LINE, setting
            setting = []
        setting.append(word)
        action = settings_parser.action(setting[0])
        if action is not None and action.nargs == "*" and _is_yaml(word):
            raise _file_first(word, setting[0])
    if setting:
        yield _COMMAND_LINE, setting


def _of_file(file: Path, settings_parser: SettingsParser) -> Iterator[tuple[str, list[str]]]:
    """A YAML mapping as the words of a command line, so that both are read, and checked, in one way."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no settings file {file}{near(file)}")
    try:
        text = file.read_text(encoding="utf-8")
        content, root = read_yaml(text), compose_yaml(text)
    except ValueError as error:
        raise ValueError(f"{file} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{file} is not a mapping of settings, one `key: value` a line.")
    lines: dict[str, int] = {}
    known: dict[str, str] = {}
    for key, _ in root.value:
        line, name = key.start_mark.line + 1, _known_name(f"--{key.value}", settings_parser)
        if first := known.get(name):
            there = f"in line {lines[first]} too" + (f", as {first}" if first != key.value else "")
            raise ValueError(f"{file}:{line}: {key.value} stands there twice, {there}.")
        known[name], lines[key.value] = key.value, line
    for key, value in content.items():
        if value is None:
            continue
        where, word = f"{file}:{lines.get(str(key), 1)}", f"--{key}"
        yield where, [word, *_words(value, settings_parser.action(_known_name(word, settings_parser)))]


def _words(value: Any, action: Action | None) -> list[str]:
    is_list = action is not None and action.nargs == "*"
    if isinstance(value, dict) or (isinstance(value, list) and not is_list):
        return [json.dumps(value)]
    return [_word(item, action) for item in (value if isinstance(value, list) else [value])]


def _word(value: Any, action: Action | None) -> str:
    if value is False and action is not None and "no" in (action.choices or ()):
        return "no"  # YAML's own word for false
    return str(value).lower() if isinstance(value, bool) else str(value)
