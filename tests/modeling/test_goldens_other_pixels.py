"""Resized bytes against those of the other code bases: their three size rules, and smoothing when an image shrinks."""

import numpy as np
import pytest
from support.goldens_other import OTHER, other_arrays

from deformable_detr_refine import DeformableDetrRefineImageProcessor

SAMPLES = OTHER.parents[2] / "samples" / "images"
PHOTOS = {"BloodImage_00002": OTHER / "BloodImage_00002.jpg", "11": SAMPLES / "11.jpg"}
SIDES = {800: 1333, 200: 333, 320: 533}
# file, beginning of its keys, size rule; torchvision's bytes are ours, Pillow's within a grey level
PIPELINES = {
    "original": ("original_preprocess", "", "original", 1),
    "detrex": ("detrex_preprocess", "", "mmdet", 1),
    "transformers, torchvision": ("stock_preprocess", "torchvision:", "transformers", 0),
    "transformers, Pillow": ("stock_preprocess", "pil:", "transformers", 1),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_resized_bytes_are_the_code_bases(pipeline, photo, side):
    file, start, size_rule, tolerance = PIPELINES[pipeline]
    arrays = other_arrays(file)
    shape, places, rgb, mean = (arrays[f"{start}{photo}@{side}:{key}"] for key in ("shape", "yx", "rgb", "mean"))
    processor = DeformableDetrRefineImageProcessor(
        size={"shortest_edge": side, "longest_edge": SIDES[side]},
        size_rule=size_rule,
        antialias=True,
        do_normalize=False,
        do_rescale=False,
    )
    pixels = processor(str(PHOTOS[photo]), return_tensors="pt").pixel_values[0]
    assert pixels.shape == (3, *shape)
    rows, columns = places.T
    ours = pixels[:, rows, columns].T.numpy().astype(int)
    assert np.abs(ours - rgb.astype(int)).max() <= tolerance
    assert pixels.double().mean((1, 2)).numpy() == pytest.approx(mean, abs=0.1)
