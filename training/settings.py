"""A run's settings: a YAML file, and `--key value` on top of it."""

import json
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from deformable_detr_refine.training.arguments import DataArguments, DetectionTrainingArguments, ModelArguments

_PLAIN = (str, int, float, bool, list, dict, Enum)
Settings = tuple[ModelArguments, DataArguments, DetectionTrainingArguments]


def read_settings(words: Sequence[str]) -> Settings:
    """Reads `[CONFIG.yaml] [--key value ...]`; what stands on the command line wins.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a flat YAML mapping, or a key or a value is not known.
    """
    words = list(words)
    config = words.pop(0) if words and not words[0].startswith("--") else None
    try:
        return parser().parse_args_into_dataclasses([*(_as_words(Path(config)) if config else []), *words])
    except SystemExit as error:
        if error.code:  # argparse has told what is wrong
            raise ValueError(
                f"The settings cannot be used{f' ({config} and the command line)' if config else ''}."
            ) from None
        raise


def parser() -> HfArgumentParser:
    """The parser of all settings; `--help` lists them."""
    made = HfArgumentParser((ModelArguments, DataArguments, DetectionTrainingArguments), prog="ddetr train")
    made.allow_abbrev = False
    return made


def settings_text(settings: Settings) -> str:
    """What differs from the defaults, as the YAML of a settings file that gives the same run."""
    changed: dict[str, Any] = {}
    for part in settings:
        # TrainingArguments fill themselves in when they are made: what they were given is what a fresh one lacks.
        fresh = type(part)(**({"output_dir": part.output_dir} if hasattr(part, "output_dir") else {}))
        for item in fields(part):
            value = getattr(part, item.name)
            if item.init and value != getattr(fresh, item.name) and isinstance(value, _PLAIN):
                changed[item.name] = value.value if isinstance(value, Enum) else value
    if "model_config" in changed:
        changed["model_config"] = json.loads(changed["model_config"])
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)


def _as_words(file: Path) -> list[str]:
    """A YAML mapping as the words of a command line, so that both are read, and checked, in one way."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no settings file {file}.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a mapping of settings, one `key: value` a line.")
    words = []
    for key, value in content.items():
        if value is None:
            continue
        words.append(f"--{key}")
        if isinstance(value, dict):
            words.append(json.dumps(value))
        else:
            words += [_word(item) for item in (value if isinstance(value, list) else [value])]
    return words


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
