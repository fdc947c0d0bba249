"""A detector from a folder or the Hub, on its device, with errors in one sentence."""

import os
from pathlib import Path

import torch
from transformers.utils import logging

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion.load_model import load_model
from deformable_detr_refine.ops import backend_report


def load_detector(
    model: str, device: str = "auto", revision: str | None = None
) -> tuple[DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor]:
    """Loads a model folder, or a model of the Hub, for inference; custom code in it is not run.

    Args:
        model: a folder with config.json, model.safetensors and preprocessor_config.json, or OWNER/NAME on the Hub.
        device: auto, cpu, cuda, cuda:1, mps, ...
        revision: branch, tag or commit on the Hub.

    Returns:
        The model in evaluation mode on its device, and its image processor.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: a file is missing, or the Hub does not give it.
        ValueError: it is another kind of model, its files are damaged or do not fit together, the device is not
            there, or DDETR_BACKEND asks for a backend that does not run on it.
    """
    if not Path(model).exists() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise FileNotFoundError(f"There is no model folder {model}.")
    where = choose_device(device)
    if not any(row["chosen"] for row in backend_report(where)):
        name = os.environ.get("DDETR_BACKEND")
        raise ValueError(f"DDETR_BACKEND={name} asks for a backend that does not run on {where}; see `ddetr doctor`.")
    logging.disable_progress_bar()
    try:
        detector = load_model(model, revision=revision)
    except OSError as error:
        if Path(model).exists():
            raise
        raise OSError(f"{model} is no folder here, and the Hub does not give it: {error}") from error
    processor = DeformableDetrRefineImageProcessor.from_pretrained(model, revision=revision)
    return detector.eval().to(where), processor


def choose_device(name: str) -> torch.device:
    """The device of that name; 'auto' is the accelerator if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"There is no device {name} here ({reason}); --device auto takes the best there is."
        ) from error
    return device


__all__ = ["choose_device", "load_detector"]
