"""Deformable DETR with iterative box refinement and two stages; importing it registers its Auto classes.

Without PyTorch it runs exported detectors (.onnx) only, and registers nothing.
"""

from typing import TYPE_CHECKING

from .inference.detections import Detections
from .modeling.image_io import load_image
from .modeling.without_torch import MISSING, told_missing

if not MISSING:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection

    from .inference.transformers_models import accelerate_transformers
    from .modeling import (
        DeformableDetrRefineConfig,
        DeformableDetrRefineForObjectDetection,
        DeformableDetrRefineImageProcessor,
        DeformableDetrRefineModel,
        DeformableDetrRefinePreTrainedModel,
        deformable_attention,
        use_backend,
    )

    AutoConfig.register(DeformableDetrRefineConfig.model_type, DeformableDetrRefineConfig, exist_ok=True)
    AutoModel.register(DeformableDetrRefineConfig, DeformableDetrRefineModel, exist_ok=True)
    AutoModelForObjectDetection.register(
        DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection, exist_ok=True
    )
    AutoImageProcessor.register(
        DeformableDetrRefineConfig,
        image_processor_classes={"torchvision": DeformableDetrRefineImageProcessor},
        exist_ok=True,
    )

__all__ = [
    "DeformableDetrRefineConfig",
    "DeformableDetrRefineForObjectDetection",
    "DeformableDetrRefineImageProcessor",
    "DeformableDetrRefineModel",
    "DeformableDetrRefinePreTrainedModel",
    "Detections",
    "accelerate_transformers",
    "deformable_attention",
    "load_image",
    "use_backend",
]

if not TYPE_CHECKING and MISSING:
    __getattr__ = told_missing(__name__, __all__)
    __all__ = [name for name in __all__ if name in globals()]
