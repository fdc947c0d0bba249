"""preprocessor_config.json of stock transformers as settings of our image processor: the same pixels, and back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DeformableDetrImageProcessor

from deformable_detr_refine import DeformableDetrRefineImageProcessor
from deformable_detr_refine.conversion import CheckpointError
from deformable_detr_refine.conversion.stock.processor import processor_settings
from deformable_detr_refine.conversion.stock.written import written_processor


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"feature_extractor_type": "DeformableDetrFeatureExtractor", "size": 480, "max_size": 800},
         {"size": {"shortest_edge": 480, "longest_edge": 800}}),
        ({"size": 480}, {"size": {"shortest_edge": 480, "longest_edge": 1333}}),
        ({"size": {"height": 64, "width": 51}}, {"size": {"height": 64, "width": 51}}),
        ({"size": {"longest_edge": 9, "shortest_edge": 4}, "resample": 3, "pad_size": {"height": 9, "width": 9}},
         {"size": {"shortest_edge": 4, "longest_edge": 9}, "resample": 3, "pad_size": {"height": 9, "width": 9}}),
        ({"size": None, "pad_size": None, "do_pad": None, "resample": None}, {}),
        ({"size": {"shortest_edge": 480, "longest_edge": None}}, {"size": {"shortest_edge": 480}}),
        ({"size": {"longest_edge": 480}}, {"size": {"longest_edge": 480}}),
        ({"size": {"max_height": 480, "max_width": 320}}, {"size": {"max_height": 480, "max_width": 320}}),
        ({"do_rescale": False, "image_mean": [0.5] * 3}, {"do_rescale": False, "image_mean": [0.5] * 3}),
    ],
    ids=str,
)  # fmt: skip
def test_image_processors_of_all_ages(values, expected):
    always = {"antialias": True, "clip_boxes": False}
    assert processor_settings(values, "4.30.2", "file") == always | {"size_rule": "original"} | expected
    assert processor_settings(values, "4.57.1", "file")["size_rule"] == "transformers"


@pytest.mark.parametrize(
    "values",
    [
        {"size": "large"},
        {"size": 0},
        {"size": {"shortest_edge": 800, "max_width": 8}},
        {"size": {"max_height": 8}},
        {"size": {"longest_edge": "8"}},
        {"size": {"a": 1}},
        {"size": {}},
        {"size": True},
        {"resample": 1},
        {"image_mean": [0.5]},
        {"do_resize": "yes"},
        {"pad_size": {"height": 9}},
        {"pad_size": {"shortest_edge": 9}},
        {"pad_size": 9},
    ],
    ids=str,
)
def test_image_processors_that_do_something_else_are_refused(values):
    with pytest.raises(CheckpointError, match=f"^file: {next(iter(values))}"):
        processor_settings(values, "5.0.0", "file")


def photos():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((66, 94), (60, 30))]


def same_pixels(ours, theirs):
    for photo in photos():
        one, other = (each(images=photo, return_tensors="pt") for each in (ours, theirs))
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert torch.equal(one["pixel_mask"], other["pixel_mask"])


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"max_height": 48, "max_width": 48}},
        {"size": {"max_height": 48, "max_width": 48}, "pad_size": {"height": 48, "width": 48}},
        {"size": {"max_height": 30, "max_width": 48}},
        {"size": {"height": 40, "width": 50}},
        {"size": {"shortest_edge": 48, "longest_edge": 60}},
        {"size": 48},
        {"do_resize": False},
        {"do_resize": False, "size": {"shortest_edge": 48}},
    ],
    ids=str,
)
def test_the_installed_release_makes_the_same_pixels(settings, tmp_path):
    stock = DeformableDetrImageProcessor(**settings)
    stock.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    same_pixels(DeformableDetrRefineImageProcessor(**processor_settings(values, "5.24.0", "file")), stock)


@pytest.mark.parametrize("edge", ["shortest_edge", "longest_edge"])
def test_one_edge_is_written_as_both(edge):
    ours = DeformableDetrRefineImageProcessor(size={edge: 48}, size_rule="transformers", antialias=True)
    values, notes = written_processor(ours)
    assert values["size"][edge] == 48 and len(values["size"]) == 2 and "no limit" in notes[0]
    same_pixels(ours, DeformableDetrImageProcessor(**values))
