"""What an exported detector says of itself beside its graph: class names and the image processor's settings."""

import json
from typing import Any

from deformable_detr_refine.modeling import DeformableDetrRefineImageProcessor

INPUTS = ("pixel_values", "pixel_mask")
OUTPUTS = ("logits", "pred_boxes")
FORMAT = "deformable-detr-refine 1"


def processor_of(facts: dict[str, str]) -> DeformableDetrRefineImageProcessor:
    """The image processor that `facts` describes."""
    settings: dict[str, Any] = json.loads(facts["image_processor"])
    return DeformableDetrRefineImageProcessor(**settings)


def names_of(facts: dict[str, str]) -> dict[int, str]:
    """The class names by label."""
    return {int(label): name for label, name in json.loads(facts["id2label"]).items()}


__all__ = ["FORMAT", "INPUTS", "OUTPUTS", "names_of", "processor_of"]
