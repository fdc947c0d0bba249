"""The model card of a converted checkpoint: what it is, where it came from, what was assumed."""

from deformable_detr_refine.inference.model_card import card_text, class_names, label_list, made_with
from deformable_detr_refine.messages import plain
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from .conversion_report import ConversionReport
from .label_names import COCO_NAMES

# COCO val2017 box AP, from the tables of MMDetection 3.1 and 2.28; publishing names a file by its sha256's beginning.
_AP_OF_CONFIG = {"plain": 44.3, "refine": 46.2, "refine_twostage": 47.0}
_AP_OF_FILE = {
    "6bc7d21b": ("deformable-detr_r50_16xb2-50e_coco", 44.3),
    "844e0f93": ("deformable-detr-refine_r50_16xb2-50e_coco", 46.2),
    "acc8a5ff": ("deformable-detr-refine-twostage_r50_16xb2-50e_coco", 47.0),
    "a12b9512": ("deformable_detr_r50_16x2_50e_coco", 44.5),
    "5f5dff21": ("deformable_detr_refine_r50_16x2_50e_coco", 46.1),
    "9d28ab72": ("deformable_detr_twostage_refine_r50_16x2_50e_coco", 46.8),
}
_FRONT_MATTER = """\
library_name: transformers
pipeline_tag: object-detection
tags:
- object-detection
- deformable-detr
- mmdetection"""
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
        f"- sha256: `{report.sha256}`",
        f"- form: {report.form}, {report.weights_from}",
        f"- config: {report.config_from or 'none'}",
        f"- labels: {report.labels_from}",
        f"- converted with {made_with()}",
        *(f"- {key}: {plain(str(value))}" for key, value in report.written_by.items()),
    ]
    notes = [*report.assumed, *report.notes] or ["Nothing: shapes and config text tell everything."]
    return card_text(
        _FRONT_MATTER,
        [
            f"# Deformable DETR ({config.variant}), converted from {report.code_base}",
            f"A detector of {config.num_labels} classes in the form of transformers. The weights are those of the\n"
            "source, value by value; nothing was trained or measured here.",
            _USE,
        ],
        [
            ("Source", "\n".join(source)),
            ("Assumed or different", "\n".join(f"- {note}" for note in notes)),
            ("Figures", _figures(config, report.sha256)),
            ("Labels", label_list(config)),
        ],
    )


def _figures(config: DeformableDetrRefineConfig, sha256: str) -> str:
    if sha256[:8] in _AP_OF_FILE:
        name, ap = _AP_OF_FILE[sha256[:8]]
        return f"COCO box AP {ap}, as published by MMDetection for this file (`{name}`); not measured here."
    reference = DeformableDetrRefineConfig()
    same = all(getattr(config, name) == getattr(reference, name) for name in _ARCHITECTURE.split())
    if same and class_names(config) == list(COCO_NAMES):
        return (
            f"COCO box AP {_AP_OF_CONFIG[config.variant]} as published by MMDetection for this config, not measured "
            "here. Nothing in the file shows whether its weights are the published ones."
        )
    return "None are known."


__all__ = ["model_card"]
