"""The fused passes of the C library against their specification, in fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deformable_detr_refine.modeling import c_library, fused_passes
from deformable_detr_refine.modeling.feed_forward import FeedForward
from deformable_detr_refine.modeling.fused_passes import Dropout, Norm, fused_dropout_, fused_residual_norm
from deformable_detr_refine.modeling.fused_passes_reference import (
    dropout_factors,
    hidden_reference,
    residual_norm_reference,
    sampling_reference,
)
from deformable_detr_refine.modeling.initial_weights import initialize
from deformable_detr_refine.modeling.residual_norm import residual_norm
from deformable_detr_refine.modeling.sampling import sampling

needs_library = pytest.mark.skipif(bool(c_library.library()[1]), reason=str(c_library.library()[1]))
pytestmark = needs_library


@pytest.fixture(params=["baseline", "avx2"], autouse=True)
def build(request, monkeypatch):
    """Every build that this processor runs, not only the best."""
    folder = c_library.Path(fused_passes.__file__).parent
    if not (path := c_library.path_of(folder, request.param)).exists():
        pytest.skip("not built")
    if request.param == "avx2" and not c_library.library()[0].deformable_attention_has_avx2():
        pytest.skip("this processor has no AVX2")
    library = c_library.open_library(path)
    monkeypatch.setattr(fused_passes, "loaded_library", lambda: library)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.0])
@pytest.mark.parametrize("shape", [(1, 8), (37, 24), (900, 256)], ids=str)
def test_dropout_is_drawn_from_the_seed_and_the_elements_number(shape, probability):
    torch.manual_seed(0)
    dropout, x = Dropout(probability), torch.randn(shape)
    dropped = fused_dropout_(x.clone(), dropout, first=5)
    assert torch.equal(dropped, x * dropout_factors(dropout, *shape, first=5).float())
    assert dropout.scale == pytest.approx(1 / (1 - probability))


def test_dropout_beyond_32_bits_of_elements():
    dropout, x, first = Dropout(0.5), torch.ones(3, 1000), 2**40
    assert torch.equal(
        fused_dropout_(x.clone(), dropout, first=first), dropout_factors(dropout, 3, 1000, first).float()
    )


def test_dropout_drops_its_share_independently():
    torch.manual_seed(0)
    masks = [fused_dropout_(torch.ones(2000, 256), Dropout(0.1)).flatten() == 0 for _ in range(4)]
    deviation = (0.1 * 0.9 / masks[0].numel()) ** 0.5
    for mask in masks:
        assert abs(mask.float().mean() - 0.1) < 5 * deviation
        centred = mask.float() - 0.1
        for lag in (1, 8, 256, 2048):
            assert abs((centred[lag:] * centred[:-lag]).mean()) < 5 * 0.3 * deviation
    together = (masks[0] & masks[1]).float().mean()
    assert abs(together - 0.01) < 5 * (0.01 / masks[0].numel()) ** 0.5


def test_dropout_follows_torchs_seed():
    torch.manual_seed(3)
    first, second = Dropout(0.1), Dropout(0.1)
    torch.manual_seed(3)
    again = Dropout(0.1)
    assert first.seed == again.seed != second.seed
    before = torch.get_rng_state()
    assert not Dropout(0.1, training=False).dropped and not Dropout(0.0).dropped
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("probability", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 200, 8), (2, 333, 40), (3, 500, 256)], ids=str)
def test_residual_norm_is_dropout_sum_and_norm(shape, probability, monkeypatch):
    torch.manual_seed(0)
    norm, drop = nn.LayerNorm(shape[-1]), nn.Dropout(probability)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x, y, grad = (torch.randn(shape) * 3 + 1 for _ in range(3))
    leaves = [t.requires_grad_() for t in (x, y, norm.weight, norm.bias)]
    out, dropout = drawn(monkeypatch, lambda: residual_norm(x, y, norm, drop))
    kept = dropout_factors(*dropout, len(x.view(-1, shape[-1])), shape[-1]).view(shape)
    x64, y64, weight, bias = (t.detach().double().requires_grad_() for t in leaves)
    expected = residual_norm_reference(x64, y64, Norm(weight, bias, norm.eps), kept)
    assert_equal(out, expected, leaves, (x64, y64, weight, bias), grad)


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "again"])
@pytest.mark.parametrize("probability", [0.0, 0.2])
@pytest.mark.parametrize(("shape", "hidden"), [((1, 200, 8), 20), ((2, 1333, 64), 96)], ids=str)
def test_feed_forward_is_its_layers(shape, hidden, probability, keeps, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("deformable_detr_refine.modeling.feed_forward._WORTH_KEEPING", 2**25 if keeps else 0)
    ffn, norm = FeedForward(shape[-1], hidden, probability, probability / 2), nn.LayerNorm(shape[-1])
    ffn.apply(initialize)
    for parameter in (*ffn.parameters(), *norm.parameters()):
        nn.init.normal_(parameter, std=0.3)
    x, grad = torch.randn(shape), torch.randn(shape)
    leaves = [x.requires_grad_(), *ffn.parameters(), *norm.parameters()]
    out, dropout = drawn(monkeypatch, lambda: ffn(x, norm))
    copies = [t.detach().double().requires_grad_() for t in leaves]
    x64, weight1, bias1, weight2, bias2, weight, bias = copies
    inner, outer = (dropout_factors(d, x[..., 0].numel(), w) for d, w in zip(dropout, (hidden, shape[-1]), strict=True))
    y = F.linear(hidden_reference(x64, weight1, bias1, inner.view(*shape[:2], -1)), weight2, bias2)
    expected = residual_norm_reference(x64, y, Norm(weight, bias, norm.eps), outer.view(shape))
    assert_equal(out, expected, leaves, copies, grad)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_keeps_nothing_for_backward(mode, monkeypatch):
    torch.manual_seed(0)
    ffn, norm, drop = FeedForward(64, 96, 0.0, 0.0), nn.LayerNorm(64), nn.Dropout(0.0)
    x, y = torch.randn(2, 1, 600, 64)
    expected = ffn(x, norm).detach(), residual_norm(x, y, norm, drop).detach()
    kept = []

    def watched(x, y, norm, dropout, out, total, first=0):
        kept.append(total)
        fused_residual_norm(x, y, norm, dropout, out, total, first)

    for module in ("residual_norm", "feed_forward"):
        monkeypatch.setattr(f"deformable_detr_refine.modeling.{module}.fused_residual_norm", watched)
    with mode():
        outputs = ffn(x, norm), residual_norm(x, y, norm, drop)
    assert kept == [None, None]
    for ours, theirs in zip(outputs, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_dropout_of_everything_leaves_the_residual():
    norm, x, y = nn.LayerNorm(64), *torch.randn(2, 1, 600, 64)
    torch.testing.assert_close(residual_norm(x, y, norm, nn.Dropout(1.0)), norm(x))


@pytest.mark.parametrize("hook", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_is_called(hook):
    ffn, norm, called = FeedForward(64, 96, 0.0, 0.0), nn.LayerNorm(64), []
    getattr(ffn.fc1, f"register_{hook}")(lambda *args: called.append(hook))
    ffn(torch.randn(1, 600, 64).requires_grad_(), norm).sum().backward()
    assert called == [hook]


def drawn(monkeypatch, work):
    """What work() gives, and the dropouts it drew."""
    dropouts = []

    def draw(*args):
        dropouts.append(Dropout(*args))
        return dropouts[-1]

    for module in ("residual_norm", "feed_forward"):
        monkeypatch.setattr(f"deformable_detr_refine.modeling.{module}.Dropout", draw)
    result = work()
    assert dropouts, "the plain form ran"
    return result, dropouts


def assert_equal(out, expected, leaves, copies, grad):
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(out, leaves, grad)
    for ours, theirs in zip(grads, torch.autograd.grad(expected, copies, grad.double()), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()


@pytest.mark.parametrize("sides", [2, 4])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize(("heads", "points", "width"), [(1, 1, 8), (3, 3, 40), (8, 4, 256)])
def test_sampling_is_its_layers(heads, points, width, shared, sides, monkeypatch):
    torch.manual_seed(0)
    B, Q, shapes = 2, 1100, [(7, 9), (3, 5), (1, 2)]
    layers = nn.Linear(width, heads * 3 * points * 2), nn.Linear(width, heads * 3 * points)
    x, position = torch.randn(B, Q, width), torch.randn(1 if shared else B, Q, width)
    reference = torch.rand(len(position), Q, 3, sides)
    leaves = [x.requires_grad_(), position.requires_grad_(), *layers[0].parameters(), *layers[1].parameters()]
    fused = sampling(x, position, *layers, reference, shapes, heads)
    assert "_Sampling" in type(fused[0].grad_fn).__name__
    monkeypatch.setattr("deformable_detr_refine.modeling.sampling.fused_path_applies", lambda *args: False)
    plain = sampling(x, position, *layers, reference, shapes, heads)
    offsets, logits = (layer(x + position).view(B, Q, heads, 3, points, -1) for layer in layers)
    pixel = 1 / torch.tensor([(w, h) for h, w in shapes])
    expected = sampling_reference(offsets, logits.squeeze(-1), reference, pixel)
    upstream = [torch.randn_like(y) for y in fused]
    results = [(*outputs, *torch.autograd.grad(outputs, leaves, upstream)) for outputs in (fused, plain, expected)]
    for *ours, specified in zip(*results, strict=True):
        for result in ours:
            assert result.shape == specified.shape
            assert (result - specified).norm() <= 2e-6 * specified.norm()


def test_defaults_of_torch_for_new_tensors_change_nothing():
    """The C code writes to tensors made here: of another type or device they would be too small or elsewhere."""
    torch.manual_seed(0)
    layers, ffn, norm = (nn.Linear(64, 64), nn.Linear(64, 32)), FeedForward(64, 96, 0.1, 0.1), nn.LayerNorm(64)
    x = torch.randn(1, 600, 64).requires_grad_()
    position, reference = torch.randn(1, 600, 64), torch.rand(1, 600, 1, 4)

    def results():
        torch.manual_seed(1)
        locations, weights = sampling(x, position, *layers, reference, [(20, 30)], heads=4)
        outputs = locations, weights, ffn(x, norm)
        return *outputs, *torch.autograd.grad(sum(y.square().sum() for y in outputs), x)

    expected = results()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            found = results()
    finally:
        torch.set_default_dtype(before)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_sampling_of_huge_and_missing_logits():
    layers = nn.Linear(8, 8), nn.Linear(8, 4)
    for layer in layers:
        nn.init.zeros_(layer.weight)
    layers[1].bias.data = torch.tensor([1000.0, 0.0, -1000.0, 999.0])
    x, reference = torch.zeros(1, 200, 8), torch.full((1, 200, 1, 2), 0.5)
    with torch.no_grad():
        _, weights = sampling(x, x, *layers, reference, [(2, 2)], heads=1)
        expected = layers[1].bias.softmax(0)
        torch.testing.assert_close(weights[0, 7].flatten(), expected, rtol=1e-6, atol=1e-37)
        x[0, 3, 0] = torch.nan
        locations, weights = sampling(x, torch.zeros_like(x), *layers, reference, [(2, 2)], heads=1)
    assert locations[0, 3].isnan().all() and weights[0, 3].isnan().all()
    assert locations[0, 4].isfinite().all() and weights[0, 4].isfinite().all()
