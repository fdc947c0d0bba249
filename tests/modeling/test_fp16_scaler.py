"""A forward pass that overflows in fp16: its step is skipped by the scaler, as other losses' are."""

import pytest
import torch
from support.small_detector import small_detector

LABELS = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}]


def overflowing():
    """A detector whose last class head has an infinite logit in fp16, not in fp32."""
    model = small_detector().train()
    torch.nn.init.constant_(model.class_heads[-1].get_parameter("bias"), 1e5)
    return model


def test_an_overflow_is_skipped_by_the_scaler():
    model, pixels = overflowing(), torch.rand(1, 3, 64, 96)
    optimizer = torch.optim.AdamW(parameter for parameter in model.parameters() if parameter.requires_grad)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with torch.autocast("cpu", torch.float16):
        loss = model(pixels, labels=LABELS).loss
    scaler.scale(loss).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_without_a_gradient_it_is_told():
    with torch.no_grad(), torch.autocast("cpu", torch.float16), pytest.raises(FloatingPointError, match="not finite"):
        overflowing()(torch.rand(1, 3, 64, 96), labels=LABELS)
