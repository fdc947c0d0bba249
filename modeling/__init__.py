"""The model as `save_pretrained` carries it: configuration, model, image processor, loss and operator.

Flat, with relative imports only: these files travel with a saved model as its custom code.
"""

from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
from .image_io import load_image
from .image_processing_deformable_detr_refine import DeformableDetrRefineImageProcessor
from .modeling_deformable_detr_refine import (
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineModel,
    DeformableDetrRefinePreTrainedModel,
)
from .ops import deformable_attention, use_backend

__all__ = [
    "DeformableDetrRefineConfig",
    "DeformableDetrRefineForObjectDetection",
    "DeformableDetrRefineImageProcessor",
    "DeformableDetrRefineModel",
    "DeformableDetrRefinePreTrainedModel",
    "deformable_attention",
    "load_image",
    "use_backend",
]
