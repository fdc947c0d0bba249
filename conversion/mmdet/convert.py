"""The common path by the names that it had for MMDetection alone."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..conversion_report import ConversionReport
from ..convert import convert_checkpoint
from ..export import export_checkpoint


def convert_mmdet_checkpoint(checkpoint: str | Path, output: str | Path, **options: Any) -> ConversionReport:
    """`convert_checkpoint` of a checkpoint of MMDetection 3.x or 2.x.

    Args:
        checkpoint: a `.pth` file (a Runner's, a published one, a bare state dict, zip or legacy), or the MLflow folder
            of Azure's catalogue.
        output: folder to write: config.json, model.safetensors, preprocessor_config.json, README.md.
        options: of `convert_checkpoint`; `config` is an MMDetection config file whose `_base_` files stand beside it.

    Raises:
        FileNotFoundError, CheckpointError: see `convert_checkpoint`.
    """
    return convert_checkpoint(checkpoint, output, "mmdet", **options)


def export_mmdet_checkpoint(model_dir: str | Path, output: str | Path, force: bool = False) -> dict[str, Tensor]:
    """`export_checkpoint` to MMDetection 3.x: a file with the config text and class names that MMDetection looks for.

    Args:
        model_dir: folder of a converted or trained model.
        output: the `.pth` file to write.
        force: replace it.

    Returns:
        The state dict that was written.

    Raises:
        FileNotFoundError, CheckpointError: see `export_checkpoint`.
    """
    return export_checkpoint(model_dir, output, "mmdet", force=force).weights


__all__ = ["convert_mmdet_checkpoint", "export_mmdet_checkpoint"]
