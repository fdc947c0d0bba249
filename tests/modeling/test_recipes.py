"""Settings of training that change what a model learns, and nothing of what it computes afterwards."""

import pytest
import torch
from support.goldens_mmdet import golden_batch, golden_config, golden_model
from support.recipes import RECIPES

from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.modeling.boxes import iou
from deformable_detr_refine.modeling.focal_loss import focal_loss
from deformable_detr_refine.modeling.quality_target import quality_loss

CHANGES = {name: settings for name, settings in RECIPES.items() if settings and "mixed" not in name}


@pytest.mark.parametrize("settings", CHANGES.values(), ids=CHANGES)
def test_weights_of_mmdetection_train_with_it_and_detect_as_without(settings):
    """Only the gradient is another; inference is bit for bit the same."""
    labels = [
        {"class_labels": torch.tensor([1, 3]), "boxes": torch.tensor([[0.4, 0.5, 0.2, 0.3], [0.6, 0.3, 0.3, 0.2]])}
    ]
    batch, found, gradients = golden_batch("tiny_inputs", 1), [], []
    for model in (golden_model(), golden_model(**settings)):
        with torch.inference_mode():
            outputs = model(**batch)
        found.append((outputs.logits, outputs.pred_boxes))
        loss = model.train()(**batch, labels=labels).loss
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert loss.isfinite() and gradients[-1].isfinite().all()
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert not torch.allclose(*gradients)


def test_learned_queries_are_saved_and_are_the_same_for_all_images(tmp_path):
    torch.manual_seed(0)
    model = DeformableDetrRefineForObjectDetection(golden_config(mixed_query_selection=True)).eval()
    model.save_pretrained(tmp_path)
    loaded, batch = (
        DeformableDetrRefineForObjectDetection.from_pretrained(tmp_path).eval(),
        golden_batch("tiny_inputs", 2),
    )
    with torch.inference_mode():
        expected, found = model(**batch, output_hidden_states=True), loaded(**batch)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, rtol=0, atol=0)
    start = expected.decoder_hidden_states[0]
    assert start[0].equal(start[1]) and start[0].equal(model.get_parameter("model.first_stage.content.weight"))
    assert not expected.initial_reference_points[0].equal(expected.initial_reference_points[1])


def test_without_objects_the_quality_loss_is_the_focal_loss():
    logits, none = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(0, dtype=torch.int64)
    found = quality_loss(logits, (none,) * 3, torch.zeros(0), power=0.25, gamma=2.0)
    torch.testing.assert_close(found, focal_loss(logits, (none,) * 3, alpha=0.0, gamma=2.0))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_of_scores_near_0_and_1_is_that_of_the_focal_loss(gamma):
    logits = torch.tensor([[-1e4, -110.0, -20.0, 0.0, 20.0, 110.0]], requires_grad=True)
    none = (torch.zeros(0, dtype=torch.int64),) * 2
    losses = quality_loss(logits, none, torch.zeros(0), power=0.25, gamma=gamma), focal_loss(logits, none, 0.0, gamma)
    found, expected = (torch.autograd.grad(loss, logits)[0] for loss in losses)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_score_is_drawn_towards_score_and_overlap():
    """The gradient of a cross-entropy is score - target."""
    logits = torch.tensor([[0.0, -1.0], [2.0, 0.5]], requires_grad=True)
    overlap, positives = torch.tensor([0.8, 0.1]), (torch.tensor([0, 1]), torch.tensor([1, 0]))
    for power in (0.0, 0.25):
        (gradient,) = torch.autograd.grad(quality_loss(logits, positives, overlap, power, gamma=2.0), logits)
        score = logits[positives].sigmoid()
        torch.testing.assert_close(gradient[positives], score - score**power * overlap ** (1 - power))


def test_iou_by_hand():
    a, empty = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.zeros(4)
    others = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [3.0, 0.0, 5.0, 2.0]])
    torch.testing.assert_close(iou(a, others), torch.tensor([1.0, 1 / 3, 0.0]))
    assert iou(empty, empty) == 0
