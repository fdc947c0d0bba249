"""Augmentation, samplers, examples: boxes follow pixels, and an example is a function of seed, epoch and index."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.small_detector import small_detector

from deformable_detr_refine import DeformableDetrRefineImageProcessor
from deformable_detr_refine.data.augmentation.recipe import training_transform
from deformable_detr_refine.data.detection_data import features
from deformable_detr_refine.data.examples import Examples, collate
from deformable_detr_refine.data.samplers import EqualShapeBatches, OrientationSampler
from deformable_detr_refine.modeling.boxes import cxcywh_to_xyxy

datasets = pytest.importorskip("datasets", reason="pip install deformable-detr-refine[train]")
SIZE = {"shortest_edge": 120, "longest_edge": 200}
PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Grey images, each with one white box; the last is tall, the third has no box."""
    folder = tmp_path_factory.mktemp("images")
    columns = {name: [] for name in ("image_id", "file_name", "image", "width", "height", "objects")}
    for index, (width, height) in enumerate([(160, 120), (150, 100), (160, 120), (100, 150)]):
        pixels = np.full((height, width, 3), 100, dtype=np.uint8)
        x, y, w, h = 40, 30, 50, 36
        objects = {"id": [0], "bbox": [[x, y, w, h]], "category": [1], "area": [w * h], "iscrowd": [0]}
        if index == 2:
            objects = {name: [] for name in objects}
        else:
            pixels[y : y + h, x : x + w] = 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        values = (index, f"{index}.png", {"bytes": None, "path": str(folder / f"{index}.png")}, width, height, objects)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return datasets.Dataset.from_dict(columns, features=features(["other", "box"]))


def white_box(pixels: torch.Tensor) -> list[float]:
    """xyxy in 0..1 of what is white in (3, height, width)."""
    ys, xs = (pixels[0] > 0.8).nonzero(as_tuple=True)
    height, width = pixels.shape[-2:]
    return [xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height]


@pytest.mark.parametrize("preset", ["none", "light", "mmdet"])
def test_boxes_follow_their_pixels(preset, rows):
    processor = DeformableDetrRefineImageProcessor(size=SIZE, **PLAIN)
    transform = training_transform(preset, 120, 200, vertical_flip=preset == "light")
    if transform is not None:  # colour would make grey white
        transform.transforms = [step for step in transform.transforms if "RandomApply" not in type(step).__name__]
    examples, seen = Examples(rows, processor, transform, seed=1), 0
    for epoch in range(8):
        for index in (0, 1, 3):
            example = examples[(epoch, index)]
            for box in cxcywh_to_xyxy(example["labels"]["boxes"]):
                found = torch.tensor(white_box(example["pixel_values"]))
                assert torch.allclose(found, box, atol=2.5 / 60), (epoch, index)
                seen += 1
    assert seen > 12


def test_an_example_is_a_function_of_seed_epoch_and_index(rows):
    processor = DeformableDetrRefineImageProcessor(size=SIZE)
    transform = training_transform("light", 120, 200)
    torch.manual_seed(5)
    one = Examples(rows, processor, transform, seed=3)[(2, 1)]
    torch.manual_seed(6)
    state = torch.get_rng_state()
    two = Examples(rows, processor, transform, seed=3)
    again = [two[(2, index)] for index in (3, 0, 1)][-1]
    assert torch.equal(one["pixel_values"], again["pixel_values"])
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are left alone
    other = two[(3, 1)]
    assert one["pixel_values"].shape != other["pixel_values"].shape or not torch.equal(
        one["pixel_values"], other["pixel_values"]
    )


def test_without_augmentation_it_is_the_image_processor(rows):
    processor = DeformableDetrRefineImageProcessor(size=SIZE)
    example = Examples(rows, processor)[0]
    expected = processor(images=rows[0]["image"]["path"], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(example["pixel_values"], expected)
    assert example["labels"]["orig_size"].tolist() == [120, 160] and int(example["labels"]["image_id"]) == 0
    assert Examples(rows, processor)[2]["labels"]["boxes"].shape == (0, 4)


def test_a_batch_is_padded_with_its_mask(rows):
    processor = DeformableDetrRefineImageProcessor(size=SIZE)
    examples = Examples(rows, processor)
    batch = collate([examples[0], examples[3]])
    heights, widths = zip(*(examples[i]["pixel_values"].shape[-2:] for i in (0, 3)), strict=True)
    assert batch["pixel_values"].shape == (2, 3, max(heights), max(widths))
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [h * w for h, w in zip(heights, widths, strict=True)]
    assert len(batch["labels"]) == 2


def test_a_batch_of_one_size_has_no_mask_and_the_same_loss(rows):
    examples = Examples(rows, DeformableDetrRefineImageProcessor(size=SIZE))
    pair = [examples[0], examples[0]]
    batch, masked = collate(pair), collate(pair, always_masked=True)
    assert "pixel_mask" not in batch and masked["pixel_mask"].all()
    model, masks = small_detector(), []
    model.model.register_forward_pre_hook(lambda model, args: masks.append(args[1]))
    assert torch.equal(model(**batch).loss, model(**masked).loss)
    assert masks[0] is None and masks[1] is not None


def test_batches_are_of_one_orientation_and_each_epoch_of_another_order():
    is_wide = [index % 3 > 0 for index in range(40)]
    sampler = OrientationSampler(is_wide, batch_size=4, seed=0)
    order = [index for _, index in sampler]
    assert sorted(order) == list(range(40))
    batches = [order[i : i + 4] for i in range(0, 40, 4)]
    mixed = [batch for batch in batches if len({is_wide[index] for index in batch}) > 1]
    assert len(mixed) <= 1  # only what was left over
    sampler.set_epoch(1)
    assert [index for _, index in sampler] != order and {epoch for epoch, _ in sampler} == {1}
    sampler.set_epoch(0)
    assert [index for _, index in sampler] == order


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_image_is_evaluated_once_whatever_the_ranks(ranks):
    shapes = [(8, 6), (6, 8), (8, 6), (8, 6), (6, 8), (8, 6), (4, 4)]
    shares = [list(EqualShapeBatches(shapes, 2, rank, ranks)) for rank in range(ranks)]
    batches = [batch for share in shares for batch in share]
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(len({shapes[index] for index in batch}) == 1 for batch in batches)


def test_an_unknown_augmentation_is_told():
    with pytest.raises(ValueError, match=r"'heavy'.*mmdet, light, none"):
        training_transform("heavy", 800, 1333)
