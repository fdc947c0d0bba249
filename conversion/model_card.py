"""The model card of a converted checkpoint: what it is, where it came from, what was assumed."""

from deformable_detr_refine.inference.model_card import card_text, class_names, label_list, made_with
from deformable_detr_refine.messages import plain
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from .conversion_report import ConversionReport
from .download.published import PUBLISHED
from .label_names import COCO_NAMES

# COCO val2017 box AP of MMDetection's three configs, from the metafile of 3.1.0.
_AP_OF_CONFIG = {"plain": 44.3, "refine": 46.2, "refine_twostage": 47.0}
_FRONT_MATTER = """\
library_name: transformers
pipeline_tag: object-detection
tags:
- object-detection
- deformable-detr"""
_USE = """\
```python
import deformable_detr_refine  # registers the classes
from transformers import pipeline

detector = pipeline("object-detection", model="path/of/this/folder")
```"""
_ARCHITECTURE = (
    "backbone d_model num_feature_levels num_queries encoder_layers encoder_attention_heads encoder_ffn_dim "
    "encoder_n_points decoder_layers decoder_attention_heads decoder_ffn_dim decoder_n_points"
)


def model_card(config: DeformableDetrRefineConfig, report: ConversionReport) -> str:
    """The text of README.md.

    Args:
        config: of the converted model, with its labels.
        report: on the conversion.
    """
    source = [
        f"- file: `{plain(report.source)}`",
        *([f"- fetched from: {plain(report.fetched_from)}"] if report.fetched_from else []),
        f"- sha256: `{report.sha256}`",
        f"- form: {report.form}, {report.weights_from}",
        f"- config: {report.config_from or 'none'}",
        f"- labels: {report.labels_from}",
        f"- converted with {made_with()}",
        *(f"- {key}: {plain(str(value))}" for key, value in report.written_by.items()),
    ]
    notes = [*report.assumed, *report.notes] or ["Nothing: shapes and config text tell everything."]
    return card_text(
        f"{_FRONT_MATTER}\n- mmdetection" if report.code_base == "MMDetection" else _FRONT_MATTER,
        [
            f"# Deformable DETR ({config.variant}), converted from {report.code_base}",
            f"A detector of {config.num_labels} classes in the form of transformers. The weights are those of the\n"
            "source, value by value; nothing was trained or measured here.",
            _USE,
        ],
        [
            ("Source", "\n".join(source)),
            ("Assumed or different", "\n".join(f"- {note}" for note in notes)),
            ("Figures", _figures(config, report)),
            ("Labels", label_list(config)),
        ],
    )


def _figures(config: DeformableDetrRefineConfig, report: ConversionReport) -> str:
    if report.published is not None:
        published = PUBLISHED[report.published]
        return (
            f"COCO box AP {published.ap}, as its authors report it for this file (`{published.address}`, "
            f"{published.licence}); not measured here."
        )
    reference = DeformableDetrRefineConfig()
    same = all(getattr(config, name) == getattr(reference, name) for name in _ARCHITECTURE.split())
    if report.code_base == "MMDetection" and same and class_names(config) == list(COCO_NAMES):
        return (
            f"COCO box AP {_AP_OF_CONFIG[config.variant]} as published by MMDetection for this config, not measured "
            "here. Nothing in the file shows whether its weights are the published ones."
        )
    return "None are known."


__all__ = ["model_card"]
