"""What MMDetection 3.1.0 computed (tests/goldens), as models, batches and labels of ours."""

import json
from pathlib import Path

import numpy as np
import torch

from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection
from deformable_detr_refine.conversion.mmdet.weights import weights_from_3x
from deformable_detr_refine.modeling.boxes import xyxy_to_cxcywh
from support.golden_weights import golden_state_dict

GOLDENS = Path(__file__).parents[1] / "goldens"
VARIANTS = {
    "plain": {"two_stage": False, "with_box_refine": False},
    "refine": {"two_stage": False},
    "refine_twostage": {},
}
SIZES = {
    "tiny": {
        "num_labels": 5,
        "backbone": "resnet18",
        "encoder_layers": 2,
        "decoder_layers": 2,
        "num_queries": 30,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
    },
    "r50": {"num_labels": 80},
}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


def golden_config(size: str = "tiny", variant: str = "refine_twostage", **overrides) -> DeformableDetrRefineConfig:
    return DeformableDetrRefineConfig(**{**SIZES[size], **VARIANTS[variant], **overrides})


def golden_model(size: str = "tiny", variant: str = "refine_twostage", **overrides):
    """The detector with the goldens' weights, in evaluation mode."""
    config = golden_config(size, variant, **overrides)
    model = DeformableDetrRefineForObjectDetection(config)
    model.load_state_dict(weights_from_3x(golden_state_dict(f"{size}_{variant}"), config))
    return model.eval()


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_meta() -> dict:
    return json.loads((GOLDENS / "meta.json").read_text())


def golden_batch(name: str, images: int) -> dict[str, torch.Tensor]:
    """pixel_values and pixel_mask of the first images, from MMDetection's own resized bytes."""
    arrays = golden_arrays(name)
    pixels = [(torch.from_numpy(arrays[f"rgb{i}"]).float() - MEAN) / STD for i in range(images)]
    height, width = (max(image.shape[axis] for image in pixels) for axis in (1, 2))
    values = torch.zeros(images, 3, height, width)
    mask = torch.zeros(images, height, width, dtype=torch.int64)
    for i, image in enumerate(pixels):
        values[i, :, : image.shape[1], : image.shape[2]] = image
        mask[i, : image.shape[1], : image.shape[2]] = 1
    return {"pixel_values": values, "pixel_mask": mask}


def golden_labels(arrays: dict[str, np.ndarray], images: int) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "class_labels": torch.from_numpy(arrays[f"target{i}_labels"]).long(),
            "boxes": xyxy_to_cxcywh(torch.from_numpy(arrays[f"target{i}_xyxy_norm"]).float().reshape(-1, 4)),
        }
        for i in range(images)
    ]
