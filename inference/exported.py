"""What an exported detector says of itself beside its graph: class names and the image processor's settings."""

import json
from typing import Any

from .detections import THRESHOLD

INPUTS = ("pixel_values", "pixel_mask")
OUTPUTS = ("logits", "pred_boxes")
FORMAT = "deformable-detr-refine 1"


def processor_settings_of(facts: dict[str, str]) -> dict[str, Any]:
    """The image processor's settings."""
    return dict(json.loads(facts["image_processor"]))


def names_of(facts: dict[str, str]) -> dict[int, str]:
    """The class names by label."""
    names = {int(label): name for label, name in json.loads(facts["id2label"]).items()}
    if not names or sorted(names) != list(range(len(names))):
        raise ValueError("id2label does not number its classes from 0 on")
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError("id2label has names that are no texts")
    return names


def threshold_of(facts: dict[str, str]) -> float:
    """The score threshold to begin with: what the detector's training found, else the usual one."""
    known = json.loads(facts["config"]).get("score_threshold")
    if known is not None and not 0 <= float(known) <= 1:
        raise ValueError(f"score_threshold={known} is not from 0 to 1")
    return THRESHOLD if known is None else float(known)


__all__ = ["FORMAT", "INPUTS", "OUTPUTS", "names_of", "processor_settings_of", "threshold_of"]
