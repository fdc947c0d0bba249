"""A checkpoint for both sides of the comparison: as our model folder, and as a file that MMDetection may unpickle."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.open_checkpoint import open_checkpoint
from ..code_bases import code_base_named, read_source
from ..mmdet.convert import convert_mmdet_checkpoint, export_mmdet_checkpoint
from ..mmdet.names import NAMES_3X
from ..mmdet_config.text import read_config_text
from .job import detector_settings
from .process import MMDetectionRun


@dataclass(frozen=True)
class Inputs:
    """
    Attributes:
        model_folder: the converted checkpoint.
        weights: the checkpoint's tensors under MMDetection 3.x's names.
        run: the checkpoint for MMDetection.
        exported: tensors of the model written back by `export_mmdet_checkpoint`.
        exported_run: that file for MMDetection, with the config text in it.
    """

    model_folder: Path
    weights: dict[str, Tensor]
    run: MMDetectionRun
    exported: dict[str, Tensor]
    exported_run: MMDetectionRun


def prepare(checkpoint: Path, config: Path | None, folder: Path, say: Callable[[str], None]) -> Inputs:
    """Converts a checkpoint there and back, and rewrites it for MMDetection. Everything goes into `folder`.

    Raises:
        CheckpointError, FileNotFoundError: as `convert_mmdet_checkpoint`; also for a config that MMDetection cannot be
            given (see `detector_settings`).
    """
    model_folder, exported_file = folder / "model", folder / "exported.pth"
    report = convert_mmdet_checkpoint(checkpoint, model_folder, config=config, force=True)
    for sentence in (*report.assumed, *report.notes):
        say(sentence)
    export_mmdet_checkpoint(model_folder, exported_file, force=True)
    written = open_checkpoint(exported_file)
    exported_settings = detector_settings(
        read_config_text(written["meta"]["cfg"], f"{exported_file}: meta['cfg']"), str(exported_file)
    )

    _, source = read_source(checkpoint, code_base_named("mmdet"), config)
    # 3.1.0 builds no model from a config of 2.x's.
    text = source.facts.raw if source.facts and source.facts.version == "3.x" else None
    if text is None:
        say("no config of MMDetection 3.x with it: MMDetection gets the one that `ddetr convert --to mmdet` writes")
    settings = exported_settings if text is None else detector_settings(text, report.config_from or str(checkpoint))
    # MMDetection unpickles whatever it loads. The given file was opened by our restricted unpickler; MMDetection gets
    # its tensors in a file of our own making, under their names, and nothing else of it.
    clean_file = folder / "tensors.pth"
    weights = {str(NAMES_3X.from_common(name)): tensor for name, tensor in source.weights.tensors.items()}
    torch.save({"state_dict": weights}, clean_file)
    return Inputs(
        model_folder=model_folder,
        weights=weights,
        run=MMDetectionRun(settings, clean_file),
        exported=written["state_dict"],
        exported_run=MMDetectionRun(exported_settings, exported_file),
    )


__all__ = ["Inputs", "prepare"]
