"""A detector from a folder or the Hub, on its device, with errors in one sentence."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from deformable_detr_refine.machine import choose_device
from deformable_detr_refine.modeling.without_torch import MISSING, check_installed

if TYPE_CHECKING or not MISSING:
    from deformable_detr_refine.modeling import (
        DeformableDetrRefineForObjectDetection,
        DeformableDetrRefineImageProcessor,
    )


def load_detector(
    model: str, device: str = "auto", revision: str | None = None
) -> "tuple[DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor]":
    """Loads a model folder, or a model of the Hub, for inference; custom code in it is not run.

    Args:
        model: a folder with config.json, model.safetensors and preprocessor_config.json, or OWNER/NAME on the Hub.
        device: auto, cpu, cuda, cuda:1, mps, ...
        revision: branch, tag or commit on the Hub.

    Returns:
        The model in evaluation mode on its device, and its image processor.

    Raises:
        ImportError: PyTorch, or what else it needs, is not installed.
        FileNotFoundError: there is no such folder.
        OSError: a file is missing, or the Hub does not give it.
        ValueError: it is another kind of model, its files are damaged or do not fit together, the device is not
            there, DDETR_BACKEND asks for a backend that does not run on it, or the model is in int8 and it has none.
    """
    check_installed(str(model))
    # Here, since exported detectors run where these are not.
    import torch

    from deformable_detr_refine.modeling.int8_layers import why_not_int8
    from deformable_detr_refine.modeling.ops import backend_report

    from .load_model import load_model, load_processor

    where = choose_device(device)
    if not any(row["chosen"] for row in backend_report(where)):
        name = os.environ.get("DDETR_BACKEND")
        raise ValueError(f"DDETR_BACKEND={name} asks for a backend that does not run on {where}; see `ddetr doctor`.")
    try:
        detector = load_model(model, revision=revision)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if Path(model).exists():
            raise
        raise OSError(f"{model} is no folder here, and the Hub does not give it: {error}") from error
    if detector.config.int8:
        if reason := why_not_int8():
            raise ValueError(f"{model} is in int8 and cannot run here: {reason}.")
        if where.type != "cpu" and device != "auto":
            raise ValueError(f"{model} is in int8 and runs on a CPU, not on {where}.")
        where = torch.device("cpu")
    return detector.eval().to(where), load_processor(model, revision=revision)


__all__ = ["load_detector"]
