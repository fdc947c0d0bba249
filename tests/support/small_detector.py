"""A detector that takes milliseconds an image, for tests of what happens around it."""

from pathlib import Path

import torch

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)
from support.goldens_mmdet import NO_DROPOUT

SIZE = {"shortest_edge": 64, "longest_edge": 96}


def small_config(**overrides) -> DeformableDetrRefineConfig:
    settings = {
        "backbone": "test_resnet",
        "d_model": 64,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_queries": 20,
        "num_labels": 5,
        **NO_DROPOUT,
        **overrides,
    }
    return DeformableDetrRefineConfig(**settings)


def save_small_detector(folder: Path, size: dict[str, int] = SIZE) -> Path:
    """Writes it, with random weights that are always the same and images of about 64 pixels, or of another size."""
    config = small_config()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = DeformableDetrRefineForObjectDetection(config)
        for head in detector.class_heads:  # else all scores are about the same
            torch.nn.init.normal_(head.weight, std=0.2)
    detector.save_pretrained(folder)
    DeformableDetrRefineImageProcessor(size=size).save_pretrained(folder)
    return folder
