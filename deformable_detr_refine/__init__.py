"""Deformable DETR with iterative box refinement and two stages; importing it registers its Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection

from .inference.detections import Detections
from .inference.transformers_models import accelerate_transformers
from .modeling import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
    DeformableDetrRefineModel,
    DeformableDetrRefinePreTrainedModel,
    deformable_attention,
    load_image,
    use_backend,
)

AutoConfig.register(DeformableDetrRefineConfig.model_type, DeformableDetrRefineConfig, exist_ok=True)
AutoModel.register(DeformableDetrRefineConfig, DeformableDetrRefineModel, exist_ok=True)
AutoModelForObjectDetection.register(DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection, exist_ok=True)
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
