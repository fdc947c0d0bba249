"""Checkpoints of other code bases, in and out, without executing anything of them."""

from deformable_detr_refine.conversion.conversion_report import ConversionReport
from deformable_detr_refine.conversion.errors import CheckpointError
from deformable_detr_refine.conversion.mmdet import convert_mmdet_checkpoint
from deformable_detr_refine.conversion.open_checkpoint import open_checkpoint
from deformable_detr_refine.conversion.to_mmdet import export_mmdet_checkpoint

__all__ = [
    "CheckpointError",
    "ConversionReport",
    "convert_mmdet_checkpoint",
    "export_mmdet_checkpoint",
    "open_checkpoint",
]
