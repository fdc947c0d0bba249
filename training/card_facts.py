"""What lies beside a model and tells where it comes from and how good it is.

Read are metrics.json (`ddetr evaluate`, `ddetr train`), settings.yaml and trainer_state.json (`ddetr train`), and the
sections of a README.md that stand there already, as `ddetr convert` writes them.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from deformable_detr_refine.evaluation.metrics.coco import COCO_METRICS
from deformable_detr_refine.messages import near, one_line
from deformable_detr_refine.yaml_text import read_yaml

# Sections that `model_card` writes anew; others of an earlier card stay.
_OURS = ("Use", "Figures", "Recipe", "Provenance", "Labels")


@dataclass
class CardFacts:
    """What lies beside a model.

    Attributes:
        metrics: metrics.json, or None.
        settings: settings.yaml of the training, or None.
        state: trainer_state.json, or None.
        sections: title -> text, of the README.md there.
        data: its front matter.
        sha256: of each file of weights.
        parameters: how many the model has.
    """

    metrics: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    state: Mapping[str, Any] | None = None
    sections: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    parameters: int = 0


def read_facts(folder: Path, metrics: Path | None = None) -> CardFacts:
    """Reads the files of a model folder.

    Args:
        metrics: a metrics.json elsewhere.

    Raises:
        FileNotFoundError: `metrics` is not there.
        ValueError: a file is not what its name says.
    """
    if metrics is not None and not metrics.is_file():
        raise FileNotFoundError(f"There is no file of metrics {metrics}{near(metrics)}")
    measured = _read(metrics or folder / "metrics.json", json.loads, "JSON")
    if measured is not None and not isinstance(measured.get("AP"), int | float):
        raise ValueError(f"{metrics or folder / 'metrics.json'} has no AP: `ddetr evaluate` writes such files.")
    if measured is not None and not _is_evaluation(measured):
        raise ValueError(f"{metrics or folder / 'metrics.json'} is not as `ddetr evaluate` writes it.")
    facts = CardFacts(
        measured,
        _read(folder / "settings.yaml", read_yaml, "YAML"),
        _read(folder / "trainer_state.json", json.loads, "JSON"),
    )
    state = facts.state or {}
    if not all(isinstance(state.get(name), int | float | None) for name in ("global_step", "epoch")):
        raise ValueError(f"{folder / 'trainer_state.json'} is not as `ddetr train` writes it.")
    if (readme := folder / "README.md").is_file():
        try:
            card = ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True)
            facts.data = {name: value for name, value in card.data.to_dict().items() if _is_named(name, value)}
        except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
            raise ValueError(
                f"{readme} has a front matter that is not YAML, or not a card's: {one_line(error)}"
            ) from error
        facts.sections = {title: _alone(text) for title, text in _sections(card.text) if title not in _OURS}
    return facts


def _sections(text: str) -> list[tuple[str, str]]:
    """'## title' and what stands under it, headings inside code blocks not counted."""
    sections: list[tuple[str, list[str]]] = []
    in_code = False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("## ") and not in_code:
            sections.append((line[3:].strip(), []))
        elif sections:
            sections[-1][1].append(line)
    return [(title, "\n".join(lines)) for title, lines in sections]


def _alone(text: str) -> str:
    """A text without the pictures and links of its folder, which are not pushed."""
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n?", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)


def _read(file: Path, parse: Callable[[str], Any], form: str) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is not {form}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected names with values.")
    return content


def _is_evaluation(metrics: Mapping[str, Any]) -> bool:
    """Whether the parts that the card shows have their form."""
    classes, about = metrics.get("per_class") or {}, metrics.get("about", {})
    return (
        isinstance(about, dict)
        and isinstance(about.get("split"), str | None)
        and isinstance(classes, dict)
        and all(isinstance(row, dict) and isinstance(row.get("objects"), int) for row in classes.values())
        and all(_is_share(row.get(name)) for row in classes.values() for name in ("AP", "AP50"))
        and all(_is_share(metrics.get(name, -1)) for name in COCO_METRICS)
    )


def _is_share(value: Any) -> bool:
    """Whether it is from 0 to 1, or -1, where there is none."""
    return isinstance(value, int | float) and -1 <= value <= 1


def _is_named(name: str, value: Any) -> bool:
    """Whether an entry of a front matter is what the Hub has there: a name, or beside the licence names."""
    names = value if isinstance(value, list) and name != "license" else [value]
    return all(isinstance(one, str) for one in names) and (name != "tags" or names is value)


__all__ = ["CardFacts", "read_facts"]
