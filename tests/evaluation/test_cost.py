"""Parameters and operations, beside what one counts by hand."""

import pytest
import torch

from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection, use_backend
from deformable_detr_refine.evaluation.cost import model_cost
from deformable_detr_refine.evaluation.timing import interleaved
from deformable_detr_refine.inference.load_model import load_model

HEIGHT, WIDTH = 96, 160


@pytest.fixture(scope="module")
def model(saved_small):
    return load_model(saved_small).eval()


@pytest.fixture(scope="module", params=["two-stage", "refine", "plain"])
def family(request, model):
    if request.param == "two-stage":
        return model
    values = {**model.config.to_dict(), "two_stage": False, "with_box_refine": request.param == "refine"}
    return DeformableDetrRefineForObjectDetection(DeformableDetrRefineConfig(**values)).eval()


def macs_of_convolutions(model, *names):
    """By hooks that see the real outputs."""
    counted = {name: 0 for name in names}
    hooks = []
    for name in names:
        for module in model.get_submodule(name).modules():
            if isinstance(module, torch.nn.Conv2d):

                def count(conv, args, output, name=name):
                    kernel = conv.weight[0].numel()
                    counted[name] += output.numel() * kernel

                hooks.append(module.register_forward_hook(count))
    with torch.inference_mode():
        model(torch.zeros(1, 3, HEIGHT, WIDTH))
    for hook in hooks:
        hook.remove()
    return counted


def test_parts_are_what_one_counts_by_hand(family):
    config = family.config
    parts = {part.name: part.flops / 2 for part in model_cost(family, HEIGHT, WIDTH).parts}
    by_hook = macs_of_convolutions(family, "model.backbone", "model.neck")
    assert parts["backbone"] == by_hook["model.backbone"] and parts["neck"] == by_hook["model.neck"]

    tokens, width, hidden, queries = 12 * 20 + 6 * 10 + 3 * 5 + 2 * 3, 64, 32, 20
    samples = 2 * 4 * 4  # heads x levels x points
    looks = 2 * samples * width + samples * width + 5 * samples * width // 2  # offsets, weights, samples of 32 channels
    square = width * width
    assert parts["encoder"] == tokens * (looks + 2 * square + 2 * width * hidden)
    among = 4 * queries * square + 2 * queries * queries * width  # projections, scores and sums
    decoder = among + queries * (looks + square + 2 * width * hidden) + tokens * square
    assert parts["decoder"] == config.decoder_layers * decoder
    box = 2 * square + 4 * width
    assert parts["heads"] == queries * (config.decoder_layers * box + config.num_labels * width)
    if config.two_stage:
        # Every token is scored by one channel; only the queries' boxes are computed.
        assert parts["first stage"] == tokens * (square + width) + queries * (box + 4 * square)
    else:
        assert parts["queries"] == 2 * queries * width


def test_parameters_of_the_parts_are_all(family):
    cost = model_cost(family, HEIGHT, WIDTH)
    assert cost.parameters == sum(p.numel() for p in family.parameters())
    assert all(part.parameters > 0 for part in cost.parts)


def test_the_backend_that_is_asked_for_does_not_matter(model):
    before = model_cost(model, HEIGHT, WIDTH)
    with use_backend("reference"):
        assert model_cost(model, HEIGHT, WIDTH) == before
    assert next(model.parameters()).device.type == "cpu"


def test_operations_grow_with_the_image(model):
    small, large = model_cost(model, 64, 96), model_cost(model, 128, 192)
    assert 3.9 < large.parts[0].flops / small.parts[0].flops < 4.1
    assert small.parameters == large.parameters


def test_rounds_are_interleaved_and_the_first_is_not_counted():
    ran = []

    def broken():
        raise ChildProcessError("it is not here")

    candidates = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b"), "broken": broken}
    times = interleaved(candidates, 2, progress=lambda: ran.append("."))
    assert "".join(ran) == "a.b.a.b.a.b."
    assert [len(times[name]) for name in candidates] == [2, 2, 0]
    assert times["broken"].reason == "it is not here"
