"""The loss: what it must not depend on, how it is normalised, and its errors."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from support.goldens_mmdet import NO_DROPOUT, golden_config
from support.recipes import RECIPES

from deformable_detr_refine import DeformableDetrRefineForObjectDetection
from deformable_detr_refine.modeling.boxes import generalized_iou
from deformable_detr_refine.modeling.loss import detection_loss
from deformable_detr_refine.modeling.matcher import Stage, match
from deformable_detr_refine.modeling.targets import targets_of

LAYERS, B, Q, K, S = 3, 4, 12, 5, 40


@pytest.fixture
def predictions():
    """logits, pred_boxes, encoder_logits, encoder_pred_boxes, as leaves."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    boxes = draw(LAYERS, B, Q, 4).sigmoid(), draw(B, S, 4).sigmoid()
    return [t.requires_grad_() for t in (draw(LAYERS, B, Q, K), boxes[0], draw(B, S, K), boxes[1])]


@pytest.fixture(params=RECIPES)
def loss_of(request):
    config = golden_config(**RECIPES[request.param])

    def compute(predictions, labels, **kwargs):
        logits, boxes, *of_encoder = predictions
        return detection_loss(config, logits, boxes, labels, *of_encoder, **kwargs)

    return compute


def test_terms_have_the_reference_names_and_add_up(loss_of, predictions, targets):
    loss, terms = loss_of(predictions, targets)
    layers = ["enc_", "d0.", "d1.", ""]
    assert set(terms) == {f"{layer}loss_{term}" for layer in layers for term in ("cls", "bbox", "iou")}
    torch.testing.assert_close(sum(terms.values()), loss)


def test_order_of_targets_does_not_matter(loss_of, predictions, targets):
    permuted = [{name: value.flip(0) for name, value in target.items()} for target in targets]
    losses = [loss_of(predictions, labels)[0] for labels in (targets, permuted)]
    expected, got = [(loss, *torch.autograd.grad(loss, predictions)) for loss in losses]
    torch.testing.assert_close(got, expected)


def test_order_of_queries_does_not_matter(loss_of, predictions, targets):
    logits, boxes, encoder_logits, encoder_boxes = predictions
    order = torch.randperm(Q, generator=torch.Generator().manual_seed(0))
    permuted = (logits[:, :, order], boxes[:, :, order], encoder_logits, encoder_boxes)
    torch.testing.assert_close(loss_of(permuted, targets)[0], loss_of(predictions, targets)[0])


def test_no_boxes_anywhere_leaves_the_classification(loss_of, predictions):
    nothing = [{"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)} for _ in range(B)]
    loss, terms = loss_of(predictions, nothing)
    loss.backward()
    assert loss > 0 and all(value == 0 for name, value in terms.items() if not name.endswith("loss_cls"))
    assert predictions[0].grad.abs().sum() > 0 and predictions[1].grad.abs().sum() == 0


def test_more_targets_than_queries(loss_of, predictions):
    crowded = [{"class_labels": torch.zeros(20, dtype=torch.int64), "boxes": torch.full((20, 4), 0.3)}] * B
    assert loss_of(predictions, crowded)[0].isfinite()


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_perfect_predictions_cost_next_to_nothing(settings, targets):
    boxes = torch.full((1, B, Q, 4), 0.9)
    logits = torch.full((1, B, Q, K), -20.0)
    for image, target in enumerate(targets):
        count = len(target["boxes"])
        boxes[0, image, :count] = target["boxes"]
        logits[0, image, torch.arange(count), target["class_labels"]] = 20.0
    loss, terms = detection_loss(golden_config(**settings), logits, boxes, targets)
    assert loss < 1e-5, terms


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_accumulated_window_is_one_large_batch(settings, pixels, targets):
    torch.manual_seed(0)
    model = DeformableDetrRefineForObjectDetection(golden_config(**NO_DROPOUT, **settings)).train()
    model(pixels, labels=targets).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    count = sum(len(target["boxes"]) for target in targets)
    for part in (slice(0, 1), slice(1, 4)):
        model(pixels[part], labels=targets[part], num_items_in_batch=torch.tensor(count)).loss.backward()
    for name, gradient in expected.items():
        got = model.get_parameter(name).grad
        assert (got - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_zero_items_in_batch_divides_by_one(loss_of, predictions, targets):
    torch.testing.assert_close(
        loss_of(predictions, targets, num_items_in_batch=0)[0], loss_of(predictions, targets, num_items_in_batch=1)[0]
    )


def test_loss_is_computed_in_fp32(loss_of, predictions, targets):
    half = [tensor.detach().bfloat16() for tensor in predictions]
    loss, _ = loss_of(half, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of([tensor.float() for tensor in half], targets)[0])


def test_prediction_that_is_not_finite_names_its_image(detector, pixels, targets):
    named = [{**target, "image_id": torch.tensor([10 + i])} for i, target in enumerate(targets)]
    poisoned = pixels.clone()
    poisoned[1] = torch.nan  # the image without boxes
    with pytest.raises(FloatingPointError, match=r"not finite for image 1 \(image_id 11\) of the batch"):
        detector(poisoned, labels=named)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_labels": torch.tensor([0, 5])}, r"labels\[0\]: class labels run from 0 to 5, .* classes 0 to 4"),
        ({"class_labels": torch.tensor([-1, 0])}, "from -1"),
        ({"boxes": torch.tensor([[10.0, 20.0, 30.0, 40.0]] * 2)}, r"normalised by the image itself.* from 10 to 40"),
        ({"boxes": torch.full((2, 4), torch.nan)}, "normalised"),
        ({"boxes": torch.zeros(3, 4)}, r"boxes \(3, 4\) do not go with 2 class labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, message, detector, pixels, targets):
    with pytest.raises(ValueError, match=message):
        detector(pixels, labels=[{**targets[0], **change}, *targets[1:]])


def test_labels_for_other_images_are_refused(detector, pixels, targets):
    with pytest.raises(ValueError, match="4 images came with 3 labels"):
        detector(pixels, labels=targets[:3])


def pairs_of(config, logits, boxes, labels):
    """Of one layer: logits (B, Q, K), boxes (B, Q, 4)."""
    targets = targets_of(labels, len(logits), logits.shape[-1], logits.device)
    (((image, query, target),),) = match(
        config, [Stage([""], logits[None], boxes[None], targets.class_labels)], targets, labels
    )
    return image, query, target


def test_matching_is_optimal():
    """Against every assignment of three targets to four predictions."""
    from itertools import permutations

    generator = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(1, 4, K, generator=generator), torch.rand(1, 4, 4, generator=generator)
    labels = [{"class_labels": torch.tensor([1, 1, 4]), "boxes": torch.rand(3, 4, generator=generator)}]
    config = golden_config(class_cost=0, giou_cost=0)  # leaves L1, which is easily written down
    _, queries, matched = pairs_of(config, logits, boxes, labels)
    cost = torch.cdist(boxes[0], labels[0]["boxes"], p=1)
    best = min(sum(cost[q, t] for t, q in enumerate(order)) for order in permutations(range(4), 3))
    assert cost[queries, matched].sum() == pytest.approx(best.item())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("queries", "objects"), [(200, 1), (200, 9), (30, 30), (40, 30), (7, 20), (5, 0)])
def test_few_costs_give_the_optimum_of_all(queries, objects, ties):
    """Also where predictions and targets repeat, so that many costs are equal."""
    generator = torch.Generator().manual_seed(objects)
    boxes, true = (torch.rand(2, count, 4, generator=generator) * 0.4 + 0.2 for count in (queries, objects))
    logits = torch.randn(2, queries, K, generator=generator)
    if ties:
        boxes, true = (drawn[:, torch.arange(drawn.shape[1]) % 3] for drawn in (boxes, true))
        logits = logits.round()
    labels = [{"class_labels": torch.arange(objects) % K, "boxes": part} for part in true]
    config = golden_config(class_cost=0, giou_cost=0)
    image, query, target = pairs_of(config, logits, boxes, labels)
    for i in range(2):
        cost = config.bbox_cost * torch.cdist(boxes[i], true[i], p=1)
        mine, theirs = (query[image == i], target[image == i] - i * objects), linear_sum_assignment(cost)
        assert len(mine[0].unique()) == len(mine[1].unique()) == min(queries, objects)
        torch.testing.assert_close(cost[mine].sum(), cost[theirs].sum())


def test_generalized_iou_by_hand():
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    for b, expected in [
        ([0.0, 0.0, 2.0, 2.0], 1.0),
        ([1.0, 0.0, 3.0, 2.0], 1 / 3),  # half overlaps, the hull is the union
        ([3.0, 0.0, 5.0, 2.0], -1 / 5),  # apart: union 8 of a hull of 10
        ([1.0, 1.0, 1.0, 1.0], 0.0),  # empty, inside
    ]:
        assert generalized_iou(a, torch.tensor(b)).item() == pytest.approx(expected)
    assert generalized_iou(torch.zeros(4), torch.zeros(4)).isfinite()
