"""Checkpoints of other code bases, in and out, without executing anything of them.

All go one path (`convert`, `export`). To add a code base, write a folder with its names as a `NameTable` to the common
names (`names`) and a `CodeBase` that says where weights, config and class names are, and list it in `code_bases`.
Opening, checking every name, shape and value, resolving the configuration and writing are common.
"""

from deformable_detr_refine.errors import CheckpointError

from .checkpoints.open_checkpoint import open_checkpoint
from .conversion_report import ConversionReport
from .convert import convert_checkpoint
from .export import export_checkpoint
from .load import detector_from
from .mmdet.convert import convert_mmdet_checkpoint, export_mmdet_checkpoint

__all__ = [
    "CheckpointError",
    "ConversionReport",
    "convert_checkpoint",
    "convert_mmdet_checkpoint",
    "detector_from",
    "export_checkpoint",
    "export_mmdet_checkpoint",
    "open_checkpoint",
]
