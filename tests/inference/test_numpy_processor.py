"""The image processor in numpy makes the pixels and finds the boxes of the one in PyTorch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

from deformable_detr_refine import DeformableDetrRefineImageProcessor
from deformable_detr_refine.inference.numpy_processor import NumpyImageProcessor
from deformable_detr_refine.inference.numpy_resize import resize

MODES = [InterpolationMode(name) for name in ("nearest", "lanczos", "bilinear", "bicubic")]  # by Pillow's numbers
# Without these PyTorch computes in float, and rounds some pixels otherwise.
SAME_KERNELS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
SIZE = {"shortest_edge": 60, "longest_edge": 100}


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("resample", "antialias"), [(0, False), (1, True), (2, False), (2, True), (3, False), (3, True)]
)
def test_resized_pixels_are_pytorchs(resample, antialias):
    chance = np.random.default_rng(0)
    shapes = [(1, 1, 8, 9), (5, 7, 3, 200), (2, 3, 4, 6), (700, 333, 64, 30), (150, 200, 250, 333), (48, 80, 48, 20)]
    for height, width, *after in [*shapes, *chance.integers(1, 200, (30, 4)).tolist()]:
        image = np.array(picture(height, width))
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        try:
            expected = tvF.resize(tensor, after, MODES[resample], antialias=antialias).permute(1, 2, 0).numpy()
        except NotImplementedError:
            pytest.skip(f"torch {torch.__version__} has no {MODES[resample].value} of tensors")
        difference = np.abs(resize(image, (after[0], after[1]), resample, antialias).astype(int) - expected)
        assert difference.max() <= (0 if SAME_KERNELS else 1), (height, width, after)


def test_lanczos_without_antialias_is_refused_as_in_pytorch():
    with pytest.raises(ValueError, match="with antialias only"):
        resize(np.zeros((2, 2, 3), np.uint8), (3, 3), 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 800, "longest_edge": 1333}},
        {"size": SIZE, "size_rule": "original", "antialias": True},
        {"size": {"max_height": 50, "max_width": 70}, "size_rule": "transformers", "resample": 3},
        {"size": {"height": 33, "width": 77}, "pad_size": {"height": 40, "width": 80}},
        {"size": SIZE, "image_mean": 0.5, "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 127},
        {"size": SIZE, "antialias": None},
        {"size": SIZE, "do_rescale": False},
        {"size": SIZE, "do_normalize": False},
        {"size": SIZE, "do_resize": False, "do_rescale": None},
    ],
    ids=str,
)
def test_a_batch_is_pytorchs(settings):
    theirs = DeformableDetrRefineImageProcessor(**settings)
    ours = NumpyImageProcessor.of(theirs.to_dict())
    images = [picture(48, 64), picture(90, 31).convert("RGBA")]
    assert all(ours.resized_shape(*shape) == theirs.resized_shape(*shape) for shape in [(48, 64), (90, 31), (1, 50)])
    expected, batch = theirs(images, return_tensors="pt"), ours(images)
    assert batch["pixel_values"].dtype == np.float32 and batch["pixel_mask"].dtype == np.int64
    assert np.array_equal(batch["pixel_mask"], expected["pixel_mask"])
    values = expected["pixel_values"].numpy()
    grey_level = (ours.rescale_factor if ours.do_rescale else 1) / (np.min(ours.image_std) if ours.do_normalize else 1)
    assert np.abs(batch["pixel_values"] - values).max() <= (0 if SAME_KERNELS else 1.001 * grey_level)


@pytest.mark.parametrize("settings", [{}, {"clip_boxes": False}, {"top_k": 7}], ids=str)
@pytest.mark.parametrize("sizes", [None, [(480, 640), (31, 77)]])
def test_detections_are_pytorchs(settings, sizes):
    theirs = DeformableDetrRefineImageProcessor(size=SIZE, **settings)
    ours = NumpyImageProcessor.of(theirs.to_dict())
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 40, 3, generator=chance) * 3
    logits[0, 3], logits[1, 7, 1] = torch.nan, -1000
    boxes = torch.rand(2, 40, 4, generator=chance)
    arrays = SimpleNamespace(logits=logits.numpy(), pred_boxes=boxes.numpy())
    tensors = SimpleNamespace(logits=logits, pred_boxes=boxes)
    for threshold, top_k in [(0.0, None), (0.6, 5), (0.5, 1000), (1.0, None)]:
        found = ours.post_process_object_detection(arrays, threshold, sizes, top_k)
        expected = theirs.post_process_object_detection(tensors, threshold, sizes, top_k)
        for one, other in zip(found, expected, strict=True):
            assert all(one[name].shape == other[name].shape for name in other)
            assert np.abs(one["scores"] - other["scores"].numpy()).max(initial=0) <= 1e-6
            assert np.array_equal(one["labels"], other["labels"].numpy())
            assert np.abs(one["boxes"] - other["boxes"].numpy()).max(initial=0) <= 1e-4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": {"shortest_edge": 0}}, "none of the forms"),
        ({"size": 60}, "should give sides"),
        ({"size_rule": "pil"}, "none of mmdet"),
        ({"top_k": 0}, "top_k=0"),
        ({"resample": 9}, "resample=9"),
        ({"image_std": 0}, "image_std=0"),
        ({"pad_size": {"height": 5}}, "pad_size"),
        ({"device": "cuda"}, "device"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        NumpyImageProcessor.of({"size": SIZE, **settings})


def test_images_that_cannot_be_are_refused():
    processor = NumpyImageProcessor(SIZE, pad_size={"height": 70, "width": 70})
    with pytest.raises(ValueError, match="does not fit"):
        processor([picture(48, 80)])
    with pytest.raises(ValueError, match="too thin"):
        processor([picture(1, 1000)])
    with pytest.raises(ValueError, match="no image to prepare"):
        processor([])
    with pytest.raises(ValueError, match="arrays of numpy"):
        processor([picture(48, 64)], return_tensors="pt")
