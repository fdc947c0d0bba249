"""Read the config.yaml that detectron2's lazy configs write, as plain values: nothing is made of the tags in it."""

import re
from pathlib import Path
from typing import Any

import yaml

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import near, printable

_LONGEST_TEXT = 1_000_000
_DEEPEST_REFERENCE = 20
_REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")


class _NoTags(yaml.SafeLoader):
    """Every tag that plain YAML has not (`!!python/object`, `!!python/name`) is ignored, and no mapping is merged."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys (`<<`) are keys like others: a few lines of them can multiply without end."""

    def construct_untagged(self, node: yaml.Node) -> Any:
        match node:
            case yaml.ScalarNode():
                return self.construct_scalar(node)
            case yaml.SequenceNode():
                return self.construct_sequence(node, deep=True)
            case yaml.MappingNode():
                return self.construct_mapping(node, deep=True)


_ANY_OTHER_TAG: Any = None  # as add_constructor has it
_NoTags.add_constructor(_ANY_OTHER_TAG, _NoTags.construct_untagged)


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no YAML, or no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no config file {path}{near(path)}")
    if path.stat().st_size > _LONGEST_TEXT:
        raise CheckpointError(f"{path} is too long for a config ({path.stat().st_size} bytes).")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _NoTags)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = printable(" ".join(str(error).split()), 200)
        raise CheckpointError(f"{path} is not a YAML file of plain values: {reason}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a YAML file with a mapping.")
    return content


def look_up(config: dict[Any, Any], *keys: str) -> Any:
    """What stands below these keys, with references (`${..num_queries}`) followed; None where there is nothing."""
    for _ in range(_DEEPEST_REFERENCE):
        value: Any = config
        for depth, key in enumerate(keys):
            value = value.get(key) if isinstance(value, dict) else None
            reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if reference is not None:
                # One dot is the mapping that the reference stands in, each further one the mapping around that.
                base = keys[: depth + 1 - len(reference[1])] if reference[1] else ()
                keys = (*base, *reference[2].split("."), *keys[depth + 1 :])
                break
        else:
            return value
    return None


__all__ = ["look_up", "read_yaml"]
