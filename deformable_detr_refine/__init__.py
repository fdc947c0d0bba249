"""Deformable DETR with iterative box refinement and two stages; importing it registers its Auto classes.

Without PyTorch it runs exported detectors (.onnx) only, and registers nothing.
"""

from importlib.util import find_spec
from typing import Any

from .inference.detections import Detections
from .modeling.image_io import load_image

if find_spec("torch") is not None:
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
    "Detections",
    "accelerate_transformers",
    "deformable_attention",
    "load_image",
    "use_backend",
]
