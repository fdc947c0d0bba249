"""The model as `save_pretrained` carries it: configuration, model, image processor, loss and operator.

Flat, with relative imports only: these files travel with a saved model as its custom code. Without PyTorch there is the
reading of images only, and what is imported from the files by name.
"""

from typing import TYPE_CHECKING

from .image_io import load_image
from .without_torch import MISSING, told_missing

if not MISSING:
    from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
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

if not TYPE_CHECKING and MISSING:
    __getattr__ = told_missing(__name__, __all__)
    __all__ = [name for name in __all__ if name in globals()]
