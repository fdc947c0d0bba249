"""The model as `save_pretrained` carries it: configuration, model, image processor, loss and operator.

Flat, with relative imports only: these files travel with a saved model as its custom code. Without PyTorch there is the
reading of images only, and what is imported from the files by name.
"""

from importlib.util import find_spec
from typing import Any

from .image_io import load_image

if find_spec("torch") is not None:
    from .configuration_deformable_detr_refine import DeformableDetrRefineConfig
    from .image_processing_deformable_detr_refine import DeformableDetrRefineImageProcessor
    from .modeling_deformable_detr_refine import (
        DeformableDetrRefineForObjectDetection,
        DeformableDetrRefineModel,
        DeformableDetrRefinePreTrainedModel,
    )
    from .ops import deformable_attention, use_backend


def __getattr__(name: str) -> Any:
    if name in __all__:
        raise ImportError(f"{name} needs PyTorch, which is not installed: pip install deformable-detr-refine.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
