"""A detector that takes milliseconds an image, for tests of what happens around it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

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


def small_detector(names: Sequence[str] = (), **overrides) -> DeformableDetrRefineForObjectDetection:
    """In evaluation mode, with random weights that are always the same; of classes with these names."""
    if names:
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: label for label, name in enumerate(names)}}
        overrides = {"num_labels": len(names), **labels, **overrides}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = DeformableDetrRefineForObjectDetection(small_config(**overrides))
        for head in detector.class_heads:  # else all scores are about the same
            torch.nn.init.normal_(head.get_parameter("weight"), std=0.2)
    return detector.eval()


def save_small_detector(folder: Path, size: dict[str, int] = SIZE, names: Sequence[str] = (), **overrides) -> Path:
    """Writes it and a processor that makes images of about 64 pixels, or of another size."""
    small_detector(names, **overrides).save_pretrained(folder)
    DeformableDetrRefineImageProcessor(size=size).save_pretrained(folder)
    return folder


def save_small_images(folder: Path, count: int) -> Path:
    """Writes 0.png, 1.png, ... of two shapes in turn; the fifth is damaged."""
    generator = np.random.default_rng(0)
    for number in range(count):
        shape = (36, 48, 3) if number % 2 else (48, 36, 3)
        Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"damaged")
    return folder
