"""The card of a detector, in its run's folder and on the Hub: what it finds, how well, and where it came from."""

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from deformable_detr_refine.evaluation.metrics.coco import COCO_METRICS
from deformable_detr_refine.inference.model_card import card_text, class_names, label_list, made_with
from deformable_detr_refine.messages import plain
from deformable_detr_refine.modeling import DeformableDetrRefineConfig
from deformable_detr_refine.secret_text import is_secret_name, without_secrets

from .card_facts import CardFacts

_TAGS = ("object-detection", "deformable-detr", "vision")


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
        repo_id: OWNER/NAME, or the folder.
        threshold: least score that the Hub's widget and the examples show.
        license: the Hub's id of the weights' licence, as 'apache-2.0'.
        picture, drawn: file names in the repository of a sample image and of the same with the detections.

    No token that is known by its form gets into it, nor a folder of this machine.
    """
    data = _front_matter(repo_id, facts, threshold, license or facts.data.get("license"), picture)
    parts = [
        f"# {plain(repo_id.rpartition('/')[2])}",
        f"Finds {_list(class_names(config))} in images: Deformable DETR ({config.variant}, {plain(config.backbone)}, "
        f"{facts.parameters / 1e6:.1f} million parameters) in the form of transformers.",
        *([f"![Detections in {picture}]({drawn})"] if drawn else []),
    ]
    sections = [
        ("Use", _use(repo_id, threshold)),
        ("Figures", _figures(facts.metrics)),
        ("Recipe", _recipe(facts)),
        *((plain(title), text) for title, text in facts.sections.items()),
        ("Provenance", _provenance(facts, data.license)),
        ("Labels", label_list(config)),
    ]
    return without_secrets(card_text(data.to_yaml(), parts, sections))


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
            metric_name=text,
            metric_value=round(float(metrics[key]), 4),
        )
        for key, text in COCO_METRICS.items()
        if metrics.get(key, -1) >= 0
    ]


def _use(repo_id: str, threshold: float) -> str:
    return f"""\
With deformable-detr-refine installed, which runs the attention in C on a CPU and in Triton on a GPU:

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
        return "None were measured."
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
        *(f"| {text} | {metrics[key]:.3f} |" for key, text in COCO_METRICS.items() if metrics.get(key, -1) >= 0),
    ]
    if said := nothing_yet(metrics):
        lines += ["", said]
    if per_class := metrics.get("per_class"):
        lines += ["", "| class | AP | AP50 | objects |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(name)} | {_number(row['AP'])} | {_number(row['AP50'])} | {row['objects']} |"
            for name, row in per_class.items()
        ]
    return "\n".join(lines)


def nothing_yet(metrics: Mapping[str, Any], key: str = "AP50") -> str:
    """A sentence where a detector is next to untrained, else nothing.

    Example:
        >>> nothing_yet({"AP50": 0.004})
        'It finds next to nothing yet: train it for longer, or begin from one that knows such images (--model).'
        >>> nothing_yet({"AP50": 0.4})
        ''
    """
    if 0 <= metrics.get(key, 1) < 0.01:
        return "It finds next to nothing yet: train it for longer, or begin from one that knows such images (--model)."
    return ""


def _recipe(facts: CardFacts) -> str | None:
    if facts.settings is None:
        return None
    settings = _public(facts.settings)
    lines = [
        f"Trained on {plain(str(settings.get('data', 'data that is not named')))} with "
        f"`ddetr train settings.yaml --data DATA --output_dir DIR`, these settings, and the defaults for all others:",
        "",
        "```yaml",
        # In lines as they are: folded ones would hide what is looked for in them.
        yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=2**31).replace("```", "'''").rstrip(),
        "```",
    ]
    if facts.state and facts.state.get("global_step"):
        lines += ["", f"{facts.state['global_step']:,} steps, {facts.state.get('epoch') or 0:.4g} epochs."]
    return "\n".join(lines)


def _provenance(facts: CardFacts, license: str | None) -> str:
    return "\n".join(
        [
            *(f"- sha256 of `{name}`: `{digest}`" for name, digest in facts.sha256.items()),
            f"- written with {made_with()}",
            f"- licence of the weights: {plain(license) if license else 'not stated'}; of the model code: Apache-2.0",
        ]
    )


def _data_of(metrics: Mapping[str, Any]) -> tuple[str, str | None]:
    """Name and split of the data that was measured on, without this machine's folders."""
    about = metrics.get("about", {})
    return _here(without_secrets(str(about.get("data") or "its validation data"))), about.get("split")


def _here(value: Any) -> Any:
    """A path is what it is called, not where it lies; whatever else stays."""
    if not isinstance(value, str):
        return value
    if PureWindowsPath(value).drive:
        return PureWindowsPath(value).name
    here = Path(value).is_absolute() or value.startswith((".", "~", "file:"))
    return (Path(value).name or value) if here else value


def _public(value: Any) -> Any:
    """Settings, however deep, without those that are private; texts without secrets and folders."""
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items() if not _private(str(key))}
    if isinstance(value, list | tuple):
        return [_public(inner) for inner in value]
    return without_secrets(_here(value)) if isinstance(value, str) else value


def _private(key: str) -> bool:
    return is_secret_name(key) or key in ("output_dir", "logging_dir", "run_name", "hub_model_id")


def _list(labels: list[str], most: int = 6) -> str:
    listed = [plain(label) for label in labels[:most]]
    if len(labels) > most:
        return f"{', '.join(listed)} and {len(labels) - most} more classes"
    return " and ".join(filter(None, (", ".join(listed[:-1]), listed[-1])))


def _cell(name: str) -> str:
    return plain(name).replace("|", "\\|")


def _number(value: float) -> str:
    return "-" if value == -1 else f"{value:.3f}"


__all__ = ["model_card", "nothing_yet"]
