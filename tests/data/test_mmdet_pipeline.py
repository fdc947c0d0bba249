"""MMDetection's transforms by its own names: sizes, ranges, boxes, defaults, and errors that say what there is."""

import json

import pytest
import torch
import yaml
from torchvision import tv_tensors

from deformable_detr_refine.data.augmentation.mmdet_pipeline import TRANSFORMS, mmdet_transforms, resizes
from deformable_detr_refine.data.augmentation.random_transforms import resized_shape
from deformable_detr_refine.data.augmentation.recipe import mmdet_recipe, training_transform

# train_pipeline of configs/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py of MMDetection 3.1.0, as YAML.
PASTED = """
- {type: LoadImageFromFile, backend_args: null}
- {type: LoadAnnotations, with_bbox: true}
- {type: RandomFlip, prob: 0.5}
- type: RandomChoice
  transforms:
  - - type: RandomChoiceResize
      scales: &sizes [[480, 1333], [512, 1333], [544, 1333], [576, 1333], [608, 1333], [640, 1333], [672, 1333],
                      [704, 1333], [736, 1333], [768, 1333], [800, 1333]]
      keep_ratio: true
  - - {type: RandomChoiceResize, scales: [[400, 4200], [500, 4200], [600, 4200]], keep_ratio: true}
    - {type: RandomCrop, crop_type: absolute_range, crop_size: [384, 600], allow_negative_crop: true}
    - {type: RandomChoiceResize, scales: *sizes, keep_ratio: true}
- {type: PackDetInputs}
"""


def picture(height: int = 500, width: int = 300, boxes=((20, 30, 90, 80),)) -> tuple:
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(len(boxes)),
    }
    return tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)), target


def sizes_of(steps: list, times: int = 30, **of_picture) -> set[tuple[int, int]]:
    """(height, width) of what comes out."""
    torch.manual_seed(0)
    (transform,) = mmdet_transforms(steps)
    return {tuple(transform(*picture(**of_picture))[0].shape[-2:]) for _ in range(times)}


def test_the_preset_is_mmdetections_pipeline_as_it_stands_there():
    pasted = [step for step in yaml.safe_load(PASTED) if step["type"] in TRANSFORMS]
    assert mmdet_recipe(800, 1333) == pasted
    by_name, by_list, by_json = (
        training_transform(augmentation, 800, 1333)
        for augmentation in ("mmdet", yaml.safe_load(PASTED), json.dumps(yaml.safe_load(PASTED)))
    )
    assert str(by_name) == str(by_list) == str(by_json)
    for seed in range(6):
        results = []
        for transform in (by_name, by_list):
            torch.manual_seed(seed)
            results.append(transform(*picture()))
        (one, one_target), (two, two_target) = results
        assert torch.equal(one, two) and torch.equal(one_target["boxes"], two_target["boxes"])


def test_sizes_are_mmcvs():
    assert resized_shape(480, 640, 800, 1333) == (800, 1067) and resized_shape(666, 499, 800, 1333) == (1068, 800)
    choice = {"type": "RandomChoiceResize", "scales": [[60, 120], [90, 120]]}
    assert sizes_of([{**choice, "keep_ratio": True}]) == {(100, 60), (120, 72)}
    assert sizes_of([choice]) == {(120, 60), (120, 90)}  # (width, height) without keep_ratio
    assert sizes_of([{"type": "Resize", "scale": [120, 60], "keep_ratio": True}]) == {(100, 60)}
    ratios = sizes_of([{"type": "RandomResize", "scale": [500, 300], "ratio_range": [0.1, 2.0], "keep_ratio": True}])
    assert len(ratios) > 20 and min(ratios)[0] >= 50 and max(ratios)[0] <= 1000
    between = sizes_of([{"type": "RandomResize", "scale": [[400, 100], [400, 200]], "keep_ratio": True}])
    assert {100 <= width <= 200 for _, width in between} == {True} and len(between) > 10


@pytest.mark.parametrize(
    ("crop", "heights", "widths"),
    [
        ({"crop_type": "absolute_range", "crop_size": [384, 600]}, range(384, 501), [300]),
        ({"crop_size": [100, 200]}, [200], [100]),
        ({"crop_type": "absolute", "crop_size": [1000, 200]}, [200], [300]),
        ({"crop_type": "relative", "crop_size": [0.5, 0.2]}, [100], [150]),
        ({"crop_type": "relative_range", "crop_size": [0.4, 0.8]}, range(200, 501), range(240, 301)),
    ],
)
def test_crops_stay_in_their_ranges(crop, heights, widths):
    found = sizes_of([{"type": "RandomCrop", "allow_negative_crop": True, **crop}])
    assert all(height in heights and width in widths for height, width in found)
    assert len(found) > 5 or not isinstance(heights, range)


def test_a_crop_keeps_an_object_unless_it_may_lose_all():
    crop = {"type": "RandomCrop", "crop_size": [60, 60]}
    for allowed in (False, True):
        transform = training_transform(
            [{**crop, "allow_negative_crop": allowed}, {"type": "Resize", "scale": [9, 9]}], 1, 1
        )
        torch.manual_seed(0)
        kept = [len(transform(*picture())[1]["labels"]) for _ in range(40)]
        assert min(kept) == (0 if allowed else 1)
    # What can keep none leaves the image whole.
    transform = mmdet_transforms([crop])[0]
    assert transform(*picture(boxes=((20, 30, 20, 30),)))[0].shape[-2:] == (500, 300)


@pytest.mark.parametrize(
    ("flip", "corners"),
    [
        ({"prob": 1.0}, {(30, 10)}),
        ({"prob": 1.0, "direction": "vertical"}, {(10, 30)}),
        ({"prob": 1.0, "direction": "diagonal"}, {(30, 30)}),
        ({"prob": 0.0}, {(10, 10)}),
        ({"prob": 0.5, "direction": ["horizontal", "vertical"]}, {(10, 10), (30, 10), (10, 30)}),
        ({"prob": [0.5, 0.5], "direction": ["horizontal", "vertical"]}, {(30, 10), (10, 30)}),
    ],
)
def test_flips_are_of_their_direction(flip, corners):
    torch.manual_seed(0)
    (transform,) = mmdet_transforms([{"type": "RandomFlip", **flip}])
    found = (transform(*picture(50, 50, ((10, 10, 20, 20),)))[1]["boxes"][0, :2].tolist() for _ in range(40))
    assert {tuple(corner) for corner in found} == corners


def test_a_list_without_a_resize_ends_with_the_image_processors():
    flip, resize = {"type": "RandomFlip", "prob": 0.5}, {"type": "Resize", "scale": [100, 60], "keep_ratio": True}
    maybe = [{"type": "RandomApply", "transforms": [resize]}]
    either = [{"type": "RandomChoice", "transforms": [[resize], [flip]]}]
    for steps in ([], [flip], maybe, either):
        image, _ = training_transform(steps, 120, 200)(*picture())
        assert image.shape[-2:] == (200, 120), steps
    assert resizes(mmdet_transforms([{"type": "RandomChoice", "transforms": [[resize], [flip, resize]]}]))
    assert training_transform([flip, resize], 120, 200)(*picture())[0].shape[-2:] == (100, 60)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "Mosaic"}, r"augmentation\[0\]: there is no transform 'Mosaic'; known are RandomFlip, .*Pack"),
        ({"type": "RandomFlip", "probability": 0.5}, "no argument 'probability'; there are prob, direction"),
        ({"type": "RandomFlip", "prob": 2}, "prob is 2, expected a number from 0 to 1"),
        ({"type": "RandomFlip", "prob": 0.5, "direction": "sideways"}, "direction is 'sideways'"),
        ({"type": "Resize"}, "the argument scale is missing"),
        ({"type": "Resize", "scale": 800}, "scale is 800, expected two whole numbers"),
        ({"type": "RandomResize", "scale": [800, 600]}, "expected two pairs, or one and ratio_range"),
        ({"type": "RandomCrop", "crop_size": [3, 3], "crop_type": "round"}, "crop_type is 'round'"),
        ({"type": "RandomCrop", "crop_size": [2.0, 1], "crop_type": "relative"}, "parts of the image"),
        ({"type": "RandomChoice", "transforms": [[{"type": "Mosaic"}]]}, r"transforms\[0\]\[0\]: there is no"),
        ("RandomFlip", "expected a transform, as {type: RandomFlip"),
        ({"prob": 0.5}, "expected a transform"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_told(step, said):
    with pytest.raises(ValueError, match=said):
        training_transform([step], 800, 1333)
    with pytest.raises(ValueError, match="neither a preset nor a list"):
        training_transform("[{", 800, 1333)


def test_colours_change_and_boxes_do_not():
    image = tv_tensors.Image(torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8))
    (transform,) = mmdet_transforms([{"type": "PhotoMetricDistortion"}])
    torch.manual_seed(1)
    _, target = picture(20, 30, ((1, 2, 9, 8),))
    changed, after = transform(image, target)
    assert not torch.equal(changed, image) and changed.shape == image.shape
    assert torch.equal(after["boxes"], target["boxes"])
    still = {"brightness_delta": 0, "hue_delta": 0, "contrast_range": [1, 1], "saturation_range": [1, 1]}
    (transform,) = mmdet_transforms([{"type": "PhotoMetricDistortion", **still}])
    assert torch.equal(transform(image, target)[0].sort(0).values, image.sort(0).values)  # channels are swapped at most
