"""The model card of a detector on the Hub: what it finds, how well, and where it came from, out of the files beside it.

Read are metrics.json (`ddetr evaluate`, `ddetr train`), settings.yaml and trainer_state.json (`ddetr train`), and the
sections of a README.md that stand there already, as `ddetr convert` writes them.
"""

import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from deformable_detr_refine.messages import one_line, plain
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_SAYS = {
    "AP": "AP (IoU 0.50:0.95)",
    "AP50": "AP (IoU 0.50)",
    "AP75": "AP (IoU 0.75)",
    "APs": "AP, small objects",
    "APm": "AP, medium objects",
    "APl": "AP, large objects",
    "AR1": "AR, 1 detection an image",
    "AR10": "AR, 10 detections",
    "AR100": "AR, 100 detections",
    "ARs": "AR, small objects",
    "ARm": "AR, medium objects",
    "ARl": "AR, large objects",
}
# Sections that are written here anew; others of an earlier card stay.
_OURS = ("Use", "Figures", "Recipe", "Provenance", "Labels")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}|\b(?:ghp|gho|sk|glpat)[-_][A-Za-z0-9_-]{16,}")
_TAGS = ("object-detection", "deformable-detr", "vision")


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
        raise FileNotFoundError(f"There is no file of metrics {metrics}.")
    measured = _read_json(metrics or folder / "metrics.json")
    if measured is not None and not isinstance(measured.get("AP"), int | float):
        raise ValueError(f"{metrics or folder / 'metrics.json'} has no AP: `ddetr evaluate` writes such files.")
    if measured is not None and not _is_evaluation(measured):
        raise ValueError(f"{metrics or folder / 'metrics.json'} is not as `ddetr evaluate` writes it.")
    facts = CardFacts(measured, _read_yaml(folder / "settings.yaml"), _read_json(folder / "trainer_state.json"))
    if (readme := folder / "README.md").is_file():
        try:
            card = ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True)
            facts.data = card.data.to_dict()
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{readme} has a front matter that is not YAML: {one_line(error)}") from error
        facts.sections = {title: _alone(text) for title, text in _sections(card.text) if title not in _OURS}
    return facts


def model_card(
    repo_id: str,
    config: DeformableDetrRefineConfig,
    facts: CardFacts,
    threshold: float,
    license: str | None = None,
    picture: str | None = None,
    drawn: str | None = None,
) -> str:
    """The text of README.md.

    Args:
        repo_id: OWNER/NAME.
        threshold: least score that the Hub's widget and the examples show.
        license: the Hub's id of the weights' licence, as 'apache-2.0'.
        picture, drawn: file names in the repository of a sample image and of the same with the detections.

    No token that is known by its form gets into it, nor a folder of this machine.
    """
    labels = [config.id2label[label] for label in range(config.num_labels)]
    data = _front_matter(repo_id, facts, threshold, license or facts.data.get("license"), picture)
    parts = [
        f"# {plain(repo_id.rpartition('/')[2])}",
        f"Finds {_list(labels)} in images: Deformable DETR ({config.variant}, {plain(config.backbone)}, "
        f"{facts.parameters / 1e6:.1f} million parameters) in the form of transformers.",
        *([f"![Detections in {picture}]({drawn})"] if drawn else []),
        *_section("Use", _use(repo_id, threshold)),
        *_section("Figures", _figures(facts.metrics)),
        *_section("Recipe", _recipe(facts)),
        *(line for title, text in facts.sections.items() for line in _section(plain(title), text)),
        *_section("Provenance", _provenance(facts, data.license)),
        *_section("Labels", ", ".join(f"`{plain(label)}`" for label in labels)),
    ]
    return without_secrets(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def without_secrets(text: str, *secrets: str | None) -> str:
    """The text with whatever looks like a token, and these, blotted out.

    Example:
        >>> without_secrets("--token hf_abcdefghijklmnop --key swordfish", "swordfish")
        '--token [removed] --key [removed]'
    """
    for secret in secrets:
        text = text.replace(secret, "[removed]") if secret else text
    return _TOKEN.sub("[removed]", text)


def _front_matter(
    repo_id: str, facts: CardFacts, threshold: float, license: str | None, picture: str | None
) -> ModelCardData:
    name = repo_id.rpartition("/")[2]
    widget = [{"src": picture, "example_title": picture}] if picture else None
    tags = [*_TAGS, *(tag for tag in facts.data.get("tags") or [] if tag not in _TAGS)]
    kept = {key: facts.data[key] for key in ("base_model", "datasets", "language", "license_name") if key in facts.data}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="object-detection",
        license=license,
        tags=tags,
        model_name=name,
        eval_results=_results(facts.metrics) or None,
        widget=widget,
        inference={"parameters": {"threshold": threshold}},
        **kept,
    )


def _results(metrics: Mapping[str, Any] | None) -> list[EvalResult]:
    """The metrics in the form that the Hub collects (`model-index`)."""
    if metrics is None:
        return []
    data, split = _data_of(metrics)
    return [
        EvalResult(
            task_type="object-detection",
            task_name="Object detection",
            dataset_type=re.sub(r"[^\w./-]+", "-", data).lower(),
            dataset_name=data,
            dataset_split=split,
            metric_type="mean-average-precision" if key.startswith("AP") else "mean-average-recall",
            metric_name=_SAYS[key],
            metric_value=round(float(metrics[key]), 4),
        )
        for key in METRICS
        if metrics.get(key, -1) >= 0
    ]


def _use(repo_id: str, threshold: float) -> str:
    return f"""\
With [deformable-detr-refine](https://pypi.org/project/deformable-detr-refine/) installed, which runs the attention in
C on a CPU and in Triton on a GPU:

```python
import deformable_detr_refine  # registers the classes
from transformers import pipeline

detect = pipeline("object-detection", model="{repo_id}")
detect("photo.jpg", threshold={threshold:g})
```

or `ddetr detect {repo_id} photo.jpg --output found --draw`. Without it, transformers, timm and scipy are enough:

```python
detect = pipeline("object-detection", model="{repo_id}", trust_remote_code=True)
```"""


def _figures(metrics: Mapping[str, Any] | None) -> str | None:
    if metrics is None:
        return "None were measured by who pushed this."
    data, split = _data_of(metrics)
    about = metrics.get("about", {})
    counted = [f"{about[key]:,} {key}" for key in ("images", "objects") if isinstance(about.get(key), int)]
    lines = [
        f"COCO's metrics on {plain(data)}{f', {split}' if split else ''}"
        + (f" ({', '.join(counted)})" if counted else "")
        + ", without a score threshold, 100 detections an image:",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {_SAYS[key]} | {metrics[key]:.3f} |" for key in METRICS if metrics.get(key, -1) >= 0),
    ]
    if per_class := metrics.get("per_class"):
        lines += ["", "| class | AP | AP50 | objects |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(name)} | {_number(row['AP'])} | {_number(row['AP50'])} | {row['objects']} |"
            for name, row in per_class.items()
        ]
    return "\n".join(lines)


def _recipe(facts: CardFacts) -> str | None:
    if facts.settings is None:
        return None
    settings = {key: _here(value) for key, value in facts.settings.items() if not _private(key)}
    lines = [
        f"Trained on {plain(str(settings.get('data', 'data that is not named')))} with "
        f"`ddetr train settings.yaml --data DATA --output_dir DIR`, these settings, and the defaults for all others:",
        "",
        "```yaml",
        yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).replace("```", "'''").rstrip(),
        "```",
    ]
    if facts.state and facts.state.get("global_step"):
        lines += ["", f"{facts.state['global_step']:,} steps, {facts.state.get('epoch') or 0:.4g} epochs."]
    return "\n".join(lines)


def _provenance(facts: CardFacts, license: str | None) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("deformable-detr-refine", "torch", "transformers"))
    return "\n".join(
        [
            *(f"- sha256 of `{name}`: `{digest}`" for name, digest in facts.sha256.items()),
            f"- pushed with {packages}, Python {platform.python_version()}",
            f"- licence of the weights: {plain(license) if license else 'not stated'}; of the model code: Apache-2.0",
        ]
    )


def _section(title: str, text: str | None) -> Iterable[str]:
    return (f"## {title}", text.strip()) if text else ()


def _sections(text: str) -> list[tuple[str, str]]:
    """'## title' and what stands under it, headings inside code blocks not counted."""
    found: list[tuple[str, list[str]]] = []
    in_code = False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("## ") and not in_code:
            found.append((line[3:].strip(), []))
        elif found:
            found[-1][1].append(line)
    return [(title, "\n".join(lines)) for title, lines in found]


def _alone(text: str) -> str:
    """A text without the pictures and links of its folder, which are not pushed."""
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n?", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)


def _data_of(metrics: Mapping[str, Any]) -> tuple[str, str | None]:
    """Name and split of the data that was measured on, without this machine's folders."""
    about = metrics.get("about", {})
    return _here(str(about.get("data") or "its validation data")), about.get("split")


def _here(value: Any) -> Any:
    """A path is what it is called, not where it lies; whatever else stays."""
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith((".", "~"))):
        return Path(value).name or value
    return value


def _private(key: str) -> bool:
    return "token" in key or key in ("output_dir", "logging_dir", "run_name", "hub_model_id")


def _list(labels: list[str], most: int = 6) -> str:
    shown = [plain(label) for label in labels[:most]]
    if len(labels) > most:
        return f"{', '.join(shown)} and {len(labels) - most} more classes"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _cell(name: str) -> str:
    return plain(name).replace("|", "\\|")


def _number(value: float) -> str:
    return "-" if value == -1 else f"{value:.3f}"


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {one_line(error)}") from error
    return _mapping(file, content)


def _read_yaml(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is not YAML: {one_line(error)}") from error
    return _mapping(file, content)


def _mapping(file: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected names with values.")
    return content


def _is_evaluation(metrics: Mapping[str, Any]) -> bool:
    """Whether the parts that the card shows have their form."""
    classes = metrics.get("per_class") or {}
    return (
        isinstance(metrics.get("about", {}), dict)
        and isinstance(classes, dict)
        and all(isinstance(row, dict) and {"AP", "AP50", "objects"} <= row.keys() for row in classes.values())
    )


__all__ = ["METRICS", "CardFacts", "model_card", "read_facts", "without_secrets"]
