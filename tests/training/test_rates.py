"""Loader and model are timed on as few images as there are, in training's own order."""

from math import isfinite
from types import SimpleNamespace

import pytest
import torch
from support.small_detector import small_config

from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor
from deformable_detr_refine.data.examples import Examples
from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.training.dry_run import dry_run
from deformable_detr_refine.training.rates import TRAINED_BATCHES, loader_rate, model_rate, training_order

SIZE = {"shortest_edge": 64, "longest_edge": 96}


@pytest.fixture(scope="module")
def examples(boxes_data) -> Examples:
    """Three images, fewer than a batch."""
    rows = load_detection_data(boxes_data)["train"].select(range(3))
    return Examples(rows, DeformableDetrRefineImageProcessor(size=SIZE))


def settings(**changes) -> SimpleNamespace:
    given = {"train_batch_size": 4, "seed": 0, "bf16": False, "fp16": False, "device": torch.device("cpu")}
    given |= {"dataloader_num_workers": 0, "max_steps": -1, "num_train_epochs": 2, "world_size": 1}
    return SimpleNamespace(**{**given, "gradient_accumulation_steps": 1, **changes})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_smaller_than_a_batch_goes_round(workers, examples):
    batches, rate = loader_rate(examples, settings(), workers)
    assert rate > 0 and isfinite(rate) and len(batches) > TRAINED_BATCHES
    assert all(len(batch["labels"]) == 4 for batch in batches)
    # Epoch after epoch, each in training's own order.
    order = training_order(examples, settings())
    expected = []
    for epoch in range(2):
        order.set_epoch(epoch)
        expected += [examples.rows[index]["image_id"] for _, index in order]
    found = [int(label["image_id"]) for batch in batches[:2] for label in batch["labels"]]
    assert found[:6] == expected


def test_one_batch_is_enough_for_the_model(examples):
    torch.manual_seed(0)
    model = DeformableDetrRefineForObjectDetection(small_config()).train()
    batches, _ = loader_rate(examples, settings(train_batch_size=1), 0)
    rate = model_rate(model, batches[:1], settings())
    assert rate > 0 and isfinite(rate)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({}, "3 images, 2 epochs, 1 process:"), ({"max_steps": 5, "world_size": 2}, "5 steps of 8 images, 2 processes:")],
)
def test_the_estimate_is_of_the_run_that_was_asked_for(changes, told, examples, tmp_path):
    torch.manual_seed(0)
    model = DeformableDetrRefineForObjectDetection(small_config(id2label=dict(enumerate("abc"))))
    said = dry_run(model, examples, settings(**changes), tmp_path)
    assert told in said and "nan" not in said and (tmp_path / "dry_run.jpg").is_file()
