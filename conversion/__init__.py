"""Checkpoints of other code bases, in and out, without executing anything of them."""

from deformable_detr_refine.errors import CheckpointError

from .checkpoints.open_checkpoint import open_checkpoint
from .conversion_report import ConversionReport
from .mmdet.convert import convert_mmdet_checkpoint
from .mmdet.export import export_mmdet_checkpoint

__all__ = [
    "CheckpointError",
    "ConversionReport",
    "convert_mmdet_checkpoint",
    "export_mmdet_checkpoint",
    "open_checkpoint",
]
