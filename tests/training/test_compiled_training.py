"""torch.compile in training: one graph whatever the images' and batches' sizes, the loss outside, the same numbers."""

import copy

import pytest
import torch
from support.small_detector import small_detector
from support.training_runs import history
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from deformable_detr_refine.training.train import train


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def batch(height: int, width: int, *boxes: int) -> dict:
    """Images with so many boxes each, of unequal widths on their canvas."""
    torch.manual_seed(height)
    mask = torch.ones(len(boxes), height, width, dtype=torch.bool)
    mask[-1, :, width - 16 :] = False
    labels = [{"class_labels": torch.randint(5, (n,)), "boxes": torch.rand(n, 4) * 0.3 + 0.3} for n in boxes]
    return {"pixel_values": torch.randn(len(boxes), 3, height, width), "pixel_mask": mask, "labels": labels}


def test_a_copy_has_its_own_weights():
    model = small_detector(two_stage=False, with_box_refine=False, decoder_layers=1, num_feature_levels=1).eval()
    model.compile(backend="eager")
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.data.zero_()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert copied(pixels).logits.abs().max() == 0 < model(pixels).logits.abs().max()


@pytest.mark.slow
def test_one_graph_for_all_batches():
    model, compiled = small_detector().train(), small_detector().train()
    counter = CompileCounterWithBackend("eager")
    compiled.compile(backend=counter, dynamic=True)
    for inputs in (batch(96, 128, 2, 1), batch(96, 128, 0, 3), batch(128, 96, 1, 1), batch(96, 160, 2, 2, 2)):
        losses = [detector(**inputs).loss for detector in (model, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
        for loss in losses:
            loss.backward()
    for (name, one), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        if one.grad is not None:
            assert other.grad is not None and (one.grad - other.grad).norm() < 1e-4 * one.grad.norm() + 1e-4, name
    assert counter.frame_count == 1 and not counters["graph_break"]


@pytest.mark.slow
def test_compiled_training_is_training(settings_file, tmp_path):
    train([str(settings_file(tmp_path / "plain"))])
    train([str(settings_file(tmp_path / "compiled", torch_compile=True, torch_compile_backend="eager"))])
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    for name in ("loss", "grad_norm", "eval_loss"):
        plain, compiled = (
            [line[name] for line in history(tmp_path / folder) if name in line] for folder in ("plain", "compiled")
        )
        assert plain and plain == pytest.approx(compiled, rel=1e-4), name
