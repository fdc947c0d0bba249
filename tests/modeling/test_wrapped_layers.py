"""Whoever wraps, hooks, replaces, quantises, prunes, traces or transforms a layer has a part in what is computed."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.small_detector import small_config
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

from deformable_detr_refine import (
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
    use_backend,
)
from deformable_detr_refine.modeling.linear import linear

LAYERS = nn.Linear | nn.Conv2d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm | nn.Dropout | nn.ReLU
# With activations inside and outside of its norms, and convolutions in groups.
BACKBONES = ["test_resnet", "test_efficientnet"]


def build(**overrides) -> DeformableDetrRefineForObjectDetection:
    """A small detector, none of whose layers does nothing; no sample lies on a pixel's edge, where gradients jump."""
    torch.manual_seed(0)
    model = DeformableDetrRefineForObjectDetection(small_config(**overrides)).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(
            parameter, mean=1.0 if "norm" in name or "bn" in name else 0.0, std=0.5 * parameter[0].numel() ** -0.5
        )
    return model


class Wrapper(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


def wrap_all(model: nn.Module) -> dict[str, Wrapper]:
    wrappers = {n: Wrapper(m) for n, m in model.named_modules() if isinstance(m, LAYERS)}
    for name, wrapper in wrappers.items():
        model.set_submodule(name, wrapper)
    return wrappers


def results(model, pixels, targets):
    """Outputs and gradients of a training step, under the layers' own names."""
    torch.manual_seed(3)
    output = model(pixels, labels=targets)
    output.loss.backward()
    grads = {n.replace(".layer.", "."): p.grad for n, p in model.named_parameters() if p.grad is not None}
    return output, grads


def assert_close(found, expected):
    """Rounding may swap two proposals, and so two queries."""
    for name in ("logits", "pred_boxes"):
        sorted_values = [output[name].detach().flatten(1).sort().values for output in (found, expected)]
        torch.testing.assert_close(*sorted_values, rtol=0, atol=5e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_wrapped_layer_is_called_and_changes_nothing(backbone, pixels, targets):
    model = build(backbone=backbone)
    expected, expected_grads = results(model, pixels, targets)
    model.zero_grad()
    wrappers = wrap_all(model)
    found, grads = results(model, pixels, targets)
    assert_close(found, expected)
    torch.testing.assert_close(found.loss, expected.loss)
    assert grads.keys() == expected_grads.keys()
    whole = sum(grad.square().sum() for grad in expected_grads.values()).sqrt()
    for name, grad in expected_grads.items():
        assert (grads[name] - grad).norm() <= 1e-5 * whole, name
    unused = {name for name, wrapper in wrappers.items() if not wrapper.calls}
    assert unused <= {"class_heads.0"} | {name for name in wrappers if "drop" in name}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hooks_see_what_a_layer_takes_and_gives(backbone, pixels, targets):
    model, seen, differing = build(backbone=backbone), set(), []
    expected, _ = results(model, pixels, targets)

    def look(name, layer, x, y):
        seen.add(name)
        if isinstance(layer, nn.Linear):
            own = F.linear(x, layer.weight, layer.bias)
        elif isinstance(layer, nn.Conv2d):
            own = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        elif isinstance(layer, nn.LayerNorm):
            own = F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
        else:
            return
        if not torch.allclose(y, own, rtol=1e-4, atol=1e-4):
            differing.append(name)

    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda layer, args, y, name=name: look(name, layer, *args, y))
    model.zero_grad()
    found, _ = results(model, pixels, targets)
    assert_close(found, expected)
    assert not differing
    assert {n for n, m in layers.items() if isinstance(m, nn.Linear | nn.Conv2d | nn.LayerNorm)} <= seen


def test_a_hook_on_every_module_of_the_process_is_called(pixels):
    model, seen = build(), set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.add(id(module)))
    try:
        with torch.no_grad():
            model(pixels)
    finally:
        handle.remove()
    assert {id(m) for m in model.modules() if isinstance(m, nn.LayerNorm | nn.Conv2d)} <= seen


class Quantised(torch.Tensor):
    """A weight of another kind, as quantisation makes it: it takes part in what its layer computes."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is not F.linear:
            return super().__torch_function__(func, types, args, kwargs or {})
        x, weight, bias = args
        with torch._C.DisableTorchFunctionSubclass():
            return F.linear(x, weight.as_subclass(torch.Tensor).round(decimals=2), bias)


def test_weights_of_another_kind_take_part(pixels):
    model, rounded = build(), build()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised), requires_grad=False)
    for layer in rounded.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.round(decimals=2)
    with torch.no_grad():
        assert_close(model(pixels), rounded(pixels))


def test_sparse_weights_are_taken():
    layer, x = nn.Linear(32, 64), torch.randn(1, 300, 32)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    prune.remove(layer, "weight")
    expected = linear(x, layer).detach()
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse_csr(), requires_grad=False)
    torch.testing.assert_close(linear(x[0], layer).detach(), expected[0])


def test_pruning_counts(pixels):
    model = build()
    with torch.no_grad():
        before = model(pixels)
    pruned = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in pruned:
        prune.l1_unstructured(layer, "weight", amount=0.3)
    with torch.no_grad():
        masked = model(pixels)
    for layer in pruned:
        prune.remove(layer, "weight")
    with torch.no_grad():
        assert_close(model(pixels), masked)
    assert not torch.allclose(masked.logits, before.logits, atol=0.1)


def test_layers_may_be_left_out(pixels):
    model, expected = build(), build()
    for layer in list(model.modules()):
        if isinstance(layer, nn.Dropout):
            name = next(name for name, module in model.named_modules() if module is layer)
            model.set_submodule(name, nn.Identity())
    with torch.no_grad():
        assert_close(model(pixels), expected(pixels))


@pytest.mark.parametrize("what", ["logits", "loss"])
def test_torch_func_gives_the_same_gradients(what, pixels, targets):
    model = build()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def value(parameters):
        output = torch.func.functional_call(model, parameters, (pixels,), {"labels": targets})
        return output[what].square().mean()

    found = torch.func.grad(value)({name: p.detach() for name, p in trained.items()})
    with use_backend("reference"):
        expected = torch.autograd.grad(value(trained), list(trained.values()), allow_unused=True)
    whole = sum(grad.square().sum() for grad in expected if grad is not None).sqrt()
    for (name, grad), theirs in zip(found.items(), expected, strict=True):
        assert theirs is None or (grad - theirs).norm() <= 1e-5 * whole, name


def test_a_mode_that_counts_operations_sees_them(pixels):
    counts = []
    for device in ("cpu", "meta"):
        model = build().to(device)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(pixels.to(device))
        counts.append(counter.get_total_flops())
    assert counts[0] == pytest.approx(counts[1], rel=0.01)


def test_torchscript_is_refused_in_one_sentence(pixels):
    with pytest.raises(NotImplementedError, match=r"TorchScript does not take this model: use torch.compile, or"):
        torch.jit.trace(build(), (pixels,), strict=False)
    with pytest.raises(NotImplementedError, match=r"TorchScript does not take this model"):
        torch.jit.script(build())


def test_lora_is_the_same_merged_and_apart(pixels):
    peft = pytest.importorskip("peft")
    model = build()
    with torch.no_grad():
        before = model(pixels).logits
    linear = {n: n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    groups = [[n for n, last in linear.items() if last == name] for name in sorted(set(linear.values()))]
    for targets in (*groups, "all-linear", convolutions):
        torch.manual_seed(1)
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
        apart = peft.get_peft_model(build(), config).eval()
        with torch.no_grad():
            adapted = apart(pixels)
            merged = apart.merge_and_unload()(pixels)
        assert_close(merged, adapted)
        if targets == "all-linear" or targets is convolutions:
            assert not torch.allclose(adapted.logits, before, atol=0.1)


def test_lora_trains_its_own_weights_only(pixels, targets):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(build(), peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1)).train()
    adapted(pixel_values=pixels, labels=targets).loss.backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert trained and all(".lora_" in name for name in trained)


def cells(model, samples, threshold):
    """What a detector finds on a photo of blood cells: boxes (N, 4) xyxy in pixels, and labels."""
    processor = DeformableDetrRefineImageProcessor.from_pretrained(samples.parent / "blood-cells")
    with Image.open(samples / "BloodImage_00053.jpg") as photo, torch.no_grad():
        outputs = model(**processor(photo, return_tensors="pt"))
    (found,) = processor.post_process_object_detection(outputs, threshold, [(480, 640)])
    return found["boxes"], found["labels"]


@pytest.fixture(scope="module")
def blood_cells(samples):
    return DeformableDetrRefineForObjectDetection.from_pretrained(samples.parent / "blood-cells").eval()


def quantised_by_quanto(model):
    quanto = pytest.importorskip("optimum.quanto")
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)


def quantised_by_torchao(model):
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())


def quantised_by_torch_ao(model):
    torch_ao = pytest.importorskip("torch.ao.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch_ao.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


@pytest.mark.parametrize("quantise", [quantised_by_quanto, quantised_by_torchao, quantised_by_torch_ao])
def test_int8_finds_the_same_cells(quantise, blood_cells, samples):
    model = copy.deepcopy(blood_cells)
    quantise(model)
    kinds = {type(module) for module in model.modules()} | {type(p) for p in model.parameters()}
    assert any(name in kind.__module__ for kind in kinds for name in ("quanto", "torchao", "torch.ao"))
    sure, likely = cells(blood_cells, samples, 0.5), cells(model, samples, 0.3)
    assert len(sure[0]) > 5
    same = (box_iou(sure[0], likely[0]) > 0.85) & (sure[1].unsqueeze(1) == likely[1])
    assert same.any(1).all()
