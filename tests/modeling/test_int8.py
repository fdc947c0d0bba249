"""Layers in int8 compute what floats that stand as int8 would give, and a network rewritten for them stays the same."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from support.small_detector import small_detector

from deformable_detr_refine.modeling import fused_passes
from deformable_detr_refine.modeling.fused_passes import fused_quantize
from deformable_detr_refine.modeling.fused_passes_reference import quantize_reference
from deformable_detr_refine.modeling.int8_layers import (
    Geometry,
    Int8Conv,
    Int8Linear,
    Int8MaxPool,
    Quantization,
    why_not_int8,
)
from deformable_detr_refine.modeling.int8_model import ConvUnit, _in_units, in_units, layers_for_int8, to_int8_form

needs_int8 = pytest.mark.skipif(bool(why_not_int8()), reason=str(why_not_int8()))
INPUT, OUTPUT, OTHER = Quantization.of_range(-2, 3), Quantization.of_range(-4, 6), Quantization.of_range(-1, 1)


def stands_for(x: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """The floats that x's uint8 stand for."""
    return (quantization.quantize(x).float() - quantization.zero_point) * quantization.scale


def weights_of(layer) -> torch.Tensor:
    return layer.weight.float() * layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("by", ["C", "PyTorch"])
def test_quantizing_is_rounding(layout, by, monkeypatch):
    if by == "PyTorch":
        monkeypatch.setattr(fused_passes, "library", lambda: (None, "not built"))
    x = (torch.randn(2, 5, 7, 9, generator=torch.Generator().manual_seed(0)) * 4).contiguous(memory_format=layout)
    quantized = fused_quantize(x, 0.05, 100)
    assert quantized.stride() == x.stride()
    # Halves may go either way.
    assert (quantized.int() - quantize_reference(x, 0.05, 100).int()).abs().max() <= 1
    assert (quantized == quantize_reference(x, 0.05, 100)).float().mean() > 0.99
    every = torch.tensor([float("nan"), -1e30, 1e30, float("inf"), 0.0])
    assert fused_quantize(every, 0.05, 100).tolist() == [0, 0, 255, 255, 100]


def test_zero_is_exact_in_every_range():
    for low, high in ((-2, 3), (1, 3), (-3, -1), (0, 0)):
        scale, zero_point = Quantization.of_range(low, high)
        assert 0 <= zero_point <= 255
        assert scale > 0


@needs_int8
@pytest.mark.parametrize("hands_on_uint8", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_linear(activation, hands_on_uint8):
    torch.manual_seed(0)
    layer = Int8Linear((24, 40), activation, hands_on_uint8).eval()
    layer.fill(torch.randn(24, 40) / 6, torch.randn(24), input=INPUT, **({"output": OUTPUT} if hands_on_uint8 else {}))
    x = torch.randn(2, 9, 40)
    expected = F.linear(stands_for(x, INPUT), weights_of(layer), layer.bias)
    expected = expected.relu() if activation == "relu" else expected
    got = layer(x)
    assert torch.equal(got, layer(INPUT.quantize(x)))
    if hands_on_uint8:
        assert (got.int() - OUTPUT.quantize(expected).int()).abs().max() <= 1
    else:
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@needs_int8
def test_a_layer_that_has_run_takes_other_weights():
    first, second = (Int8Linear((24, 40)).eval() for _ in range(2))
    for layer in (first, second):
        layer.fill(torch.randn(24, 40), None, input=INPUT)
    x = torch.randn(3, 40)
    assert not torch.equal(first(x), second(x))
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(x), second(x))


@needs_int8
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("hands_on_uint8", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 16)], ids=str
)
@pytest.mark.parametrize("activation", ["none", "relu6"])
def test_convolution(kernel, stride, groups, activation, hands_on_uint8, adds):
    torch.manual_seed(0)
    geometry = Geometry([stride, stride], [kernel // 2, kernel // 2], [1, 1], groups)
    layer = Int8Conv((16, 16 // groups, kernel, kernel), geometry, activation, hands_on_uint8, adds).eval()
    ranges = {"input": INPUT, **({"output": OUTPUT} if hands_on_uint8 else {}), **({"other": OTHER} if adds else {})}
    layer.fill(torch.randn(layer.weight.shape), torch.randn(16), **ranges)
    x = torch.randn(2, 16, 11, 8)
    expected = F.conv2d(stands_for(x, INPUT), weights_of(layer), layer.bias, *geometry)
    other = torch.randn(expected.shape) if adds else None
    if other is not None:
        expected = expected + (stands_for(other, OTHER) if hands_on_uint8 else other)
    expected = expected.clamp(0, 6) if activation == "relu6" else expected
    got = layer(x, None if other is None else other.clone())
    assert got.is_contiguous(memory_format=torch.channels_last)
    if hands_on_uint8:
        assert (got.int() - OUTPUT.quantize(expected).int()).abs().max() <= 1
    else:
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_pooling_of_uint8():
    x = torch.randint(0, 256, (1, 8, 13, 10), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    pool = Int8MaxPool(3, 2, 1)
    assert torch.equal(pool(x).float(), pool(x.float()))


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "resnet18", "tf_efficientnet_lite0", "efficientnet_b0", "convnext_atto"]
)
def test_a_network_in_units_is_the_same(backbone):
    """Residuals, ReLU, ReLU6, other activations, padding as TensorFlow has it."""
    torch.manual_seed(0)
    detector = small_detector(backbone=backbone).model
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.get_buffer("running_mean"), -0.1, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    rewritten = copy.deepcopy(detector)
    in_units(rewritten)
    x = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        for ours, theirs in zip(rewritten.backbone(x), detector.backbone(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    units = [module for module in rewritten.backbone.modules() if isinstance(module, ConvUnit)]
    assert len(units) > 5
    if backbone == "resnet18":  # in uint8 from end to end
        assert all(unit.hands_on_uint8 for unit in units)
        assert sum(unit.adds for unit in units) == 8


def test_a_sum_takes_no_memory_that_is_needed_later():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(4, 4, 1) for _ in range(3))

        def forward(self, x):
            x = self.a(x)
            y = self.b(x) + x  # x is what the convolution reads, and used again
            return [self.c(y) + x]

    units = _in_units(Network())
    assert [units.get_submodule(name).adds for name in "abc"] == [False, False, True]


@pytest.fixture(scope="module")
def detector():
    """With ranges that are drawn, not found."""
    detector = small_detector()
    in_units(detector.model)
    for name, layer, empty in list(layers_for_int8(detector.model)):
        kinds = [kind for kind in ("input", "output", "other") if getattr(empty, kind) is not None]
        empty.fill(layer.weight, layer.bias, **dict.fromkeys(kinds, Quantization.of_range(-2, 2)))
        detector.model.set_submodule(name, empty)
    detector.config.int8 = True
    return detector.eval()


@needs_int8
def test_saved_and_copied_it_is_bit_equal(detector, tmp_path):
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = detector(pixels)
        detector.save_pretrained(tmp_path)
        loaded = type(detector).from_pretrained(tmp_path)
        for other in (loaded, copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
            outputs = other(pixels)
            assert torch.equal(outputs.logits, expected.logits)
            assert torch.equal(outputs.pred_boxes, expected.pred_boxes)
    assert {name for name, _ in loaded.named_buffers()} == {name for name, _ in detector.named_buffers()}


@needs_int8
def test_what_it_cannot_do_is_one_sentence(detector, monkeypatch, tmp_path):
    pixels = torch.randn(1, 3, 64, 96)
    with pytest.raises(ValueError, match="cannot be trained: train the one that it was made from"):
        copy.deepcopy(detector).train()(pixels)
    with pytest.raises(ValueError, match="the rest of it in float32, not on cpu in"):
        copy.deepcopy(detector).to(torch.bfloat16)
    detector.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the rest of it in float32, not on cpu in torch"):
        type(detector).from_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="does not require grad"):
        type(detector).from_pretrained(tmp_path)(pixels).logits.sum().backward()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ValueError, match="cannot run here: int8 needs a processor with AVX-512 VNNI"):
        copy.deepcopy(detector)(pixels)


def test_the_form_needs_no_weights():
    with torch.device("meta"):
        detector = small_detector()
        to_int8_form(detector.model)
    assert sum(isinstance(layer, Int8Conv | Int8Linear) for layer in detector.modules()) > 10


def test_a_config_alone_gives_the_form():
    layers = [layer for layer in small_detector(int8=True).modules() if isinstance(layer, Int8Conv | Int8Linear)]
    assert len(layers) > 10
    assert not any(layer.weight.any() for layer in layers)
