"""Deformable DETR with iterative box refinement and two stages; importing it registers its Auto classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection

from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .detections import Detections
from .image_io import load_image
from .image_processing_deformable_detr_refine import DeformableDetrRefineImageProcessor
from .modeling_deformable_detr_refine import (
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineModel,
    DeformableDetrRefinePreTrainedModel,
)
from .ops import deformable_attention, use_backend

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
    "deformable_attention",
    "load_image",
    "use_backend",
]
