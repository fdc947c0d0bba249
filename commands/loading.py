"""A detector from a folder or the Hub, with errors in one sentence."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor


def load_detector(
    model: str, device: str = "auto", revision: str | None = None
) -> tuple["DeformableDetrRefineForObjectDetection", "DeformableDetrRefineImageProcessor"]:
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
        ValueError: it is another kind of model, lacks weights, or the device is not there.
    """
    if not Path(model).exists() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise FileNotFoundError(f"There is no model folder {model}.")
    where = choose_device(device)

    from transformers import AutoConfig
    from transformers.utils import logging

    from deformable_detr_refine import (
        DeformableDetrRefineConfig,
        DeformableDetrRefineForObjectDetection,
        DeformableDetrRefineImageProcessor,
    )

    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    except OSError as error:
        if Path(model).exists():
            raise
        raise OSError(f"{model} is no folder here, and the Hub does not give it: {error}") from error
    if not isinstance(config, DeformableDetrRefineConfig):
        raise ValueError(
            f"{model} is a model of type {config.model_type}, expected {DeformableDetrRefineConfig.model_type}; "
            "`ddetr convert` turns a MMDetection checkpoint into one."
        )
    detector, info = DeformableDetrRefineForObjectDetection.from_pretrained(
        model, config=config, revision=revision, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{model} lacks {len(missing)} weights of its model, the first is {missing[0]}.")
    processor = DeformableDetrRefineImageProcessor.from_pretrained(model, revision=revision)
    return detector.eval().to(where), processor


def choose_device(name: str) -> "torch.device":
    """The device of that name; 'auto' is the accelerator if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

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
