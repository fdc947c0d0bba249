"""What is computed another way for speed gives the same numbers as the plain form."""

import copy
from itertools import product

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch.autograd import forward_ad
from torchvision.ops import sigmoid_focal_loss

from deformable_detr_refine.modeling import positions
from deformable_detr_refine.modeling.backbone import ConvSame
from deformable_detr_refine.modeling.focal_loss import focal_loss
from deformable_detr_refine.modeling.folded_norm import fold_frozen_norms
from deformable_detr_refine.modeling.heads import BoxHead
from deformable_detr_refine.modeling.linear import convolution, linear, linear_relu
from deformable_detr_refine.modeling.positions import cell_centres, sine_position_embedding, valid_sizes
from deformable_detr_refine.modeling.sampling import sampling
from deformable_detr_refine.modeling.sparse_gradient import with_sparse_gradient


def random_norms(network):
    """Statistics and weights that a forgotten factor would show."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.running_mean, module.bias):
                tensor.data.uniform_(-0.2, 0.2, generator=generator)


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("resnet18", 20),
        ("resnet50", 53),
        ("tf_efficientnet_lite0", 43),
        ("efficientnet_lite0", 48),
        ("convnext_atto", 0),
    ],
)
def test_folded_norms_give_the_networks_own_numbers(name, folded):
    torch.manual_seed(0)
    # In fp64, where no rounding moves a value over a ReLU's edge.
    plain = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1)).eval().double()
    random_norms(plain)
    network = copy.deepcopy(plain)
    assert fold_frozen_norms(network) == folded
    assert list(network.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in plain.named_parameters()]
    network = copy.deepcopy(network)  # the copy's convolutions take the copy's norms
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    expected, features = plain(pixels), network(pixels)
    for ours, theirs in zip(features, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()
    (sum(f.square().mean() for f in expected)).backward()
    (sum(f.square().mean() for f in features)).backward()
    for (parameter_name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 1e-9 * theirs.grad.norm(), parameter_name


def test_padding_as_tensorflow_pads_is_timms_own():
    torch.manual_seed(0)
    for kernel, stride, dilation in product((1, 2, 3, 5), (1, 2, 3), (1, 2)):
        conv = Conv2dSame(3, 4, kernel, stride, dilation=dilation)
        ours = copy.deepcopy(conv)
        ours.__class__ = ConvSame
        for size in ((16, 17), (5, 9), (31, 1)):
            assert torch.equal(ours(x := torch.randn(1, 3, *size)), conv(x)), (kernel, stride, dilation, size)


def test_a_copy_of_a_folded_network_is_independent():
    network = timm.create_model("resnet18", features_only=True).eval()
    fold_frozen_norms(network)
    other = copy.deepcopy(network)
    pixels = torch.randn(1, 3, 64, 64)
    before = network(pixels)[-1]
    other.bn1.bias.data.fill_(100)
    assert torch.equal(network(pixels)[-1], before) and not torch.equal(other(pixels)[-1], before)


def test_folded_weights_lie_as_the_maps_where_no_gradient_is_asked():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.BatchNorm2d(8).eval())
    fold_frozen_norms(network)
    with_gradient, _ = network[0].folded()
    with torch.no_grad():
        weight, _ = network[0].folded()
    assert weight.is_contiguous(memory_format=torch.channels_last) and torch.equal(weight, with_gradient)
    assert with_gradient.requires_grad and network[0].weight.is_contiguous()


@pytest.mark.parametrize("tokens", [7, 200, 1300])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "linear_relu"])
def test_linear_is_nn_linear(relu, tokens):
    torch.manual_seed(0)
    ours = torch.nn.Linear(24, 40)
    plain = copy.deepcopy(ours)
    results = []
    for layer in (ours, plain):
        x = torch.randn(2, tokens, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
        if layer is ours:
            y = linear_relu(x, layer) if relu else linear(x, layer)
            assert ("_OneDNN" in type(y.grad_fn).__name__) == (tokens >= 200)
        else:
            y = layer(x).relu() if relu else layer(x)
        y.square().sum().backward()
        results.append((y, x.grad, layer.weight.grad, layer.bias.grad))
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("forward", [linear, linear_relu])
def test_linear_takes_halves_of_a_tensor(forward):
    layer, wide = torch.nn.Linear(8, 4), torch.randn(2, 300, 16)
    results = []
    for half in (wide.chunk(2, -1)[0], wide.chunk(2, -1)[0].clone()):
        half = half.detach().requires_grad_()
        y = torch.cat((forward(half, layer), forward(half, layer)), -1)
        results.append((y, *torch.autograd.grad(y.square().sum(), (half, *layer.parameters()))))
    torch.testing.assert_close(*results)


def test_linear_takes_frozen_weights_and_inputs_without_gradient():
    layer = torch.nn.Linear(8, 4)
    layer.weight.requires_grad_(False)
    x = torch.randn(1, 500, 8)
    linear_relu(x, layer).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None
    layer.requires_grad_(False)
    assert not linear(x, layer).requires_grad and not linear_relu(x, layer).requires_grad


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "contiguous"])
def test_a_convolution_of_1x1_on_one_thread_is_onednns_with_the_same_numbers(one_thread, layout):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(24, 16, 1, bias=False), torch.nn.BatchNorm2d(16).eval(), torch.nn.ReLU(inplace=True)
    )
    random_norms(plain)
    ours = copy.deepcopy(plain)
    assert fold_frozen_norms(ours) == 1
    results = []
    for network in (ours, plain):
        x = torch.randn(2, 24, 12, 16, generator=torch.Generator().manual_seed(1))
        x = x.contiguous(memory_format=layout).requires_grad_()
        y = network(x)
        assert ("MkldnnConvolution" in str(_functions(y))) == (network is ours)
        y.square().sum().backward()
        results.append((y, x.grad, *(parameter.grad for parameter in network.parameters())))
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert results[0][0].is_contiguous(memory_format=layout)


def test_what_onednn_cannot_is_pytorchs_own(one_thread):
    conv, layer = torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 8)
    image, tokens = torch.randn(1, 8, 16, 16), torch.randn(200, 8)

    def both(image, tokens):
        return convolution(image, conv, conv.weight, conv.bias), linear_relu(tokens, layer)

    plain = conv(image), layer(tokens).relu()
    torch.testing.assert_close(convolution(image[0], conv, conv.weight, conv.bias), plain[0][0])
    with torch.backends.mkldnn.flags(enabled=False):
        convolved, layered = both(image, tokens)
    assert "Mkldnn" not in str(_functions(convolved)) and "_OneDNN" not in str(_functions(layered))
    with forward_ad.dual_level():
        duals = both(*(forward_ad.make_dual(x, x) for x in (image, tokens)))
        tangents = [forward_ad.unpack_dual(dual).tangent for dual in duals]
    expected = plain[0] - conv.bias.view(-1, 1, 1), (layer(tokens) - layer.bias) * (plain[1] > 0)
    torch.testing.assert_close(tangents, list(expected))


def test_sizes_of_levels_may_be_lists():
    offsets, logits = torch.nn.Linear(8, 2 * 2 * 4 * 2), torch.nn.Linear(8, 2 * 2 * 4)
    x, reference = torch.randn(1, 24, 8), torch.rand(1, 24, 2, 2)
    results = [
        sampling(x, torch.zeros_like(x), offsets, logits, reference, shapes, 2)
        for shapes in ([(4, 5), (2, 2)], [[4, 5], [2, 2]])
    ]
    torch.testing.assert_close(*results)


def _functions(tensor) -> list[str]:
    """The names of the functions that autograd calls for it, one after another by their first inputs."""
    names, function = [], tensor.grad_fn
    while function is not None:
        names.append(function.name())
        function = function.next_functions[0][0] if function.next_functions else None
    return names


@pytest.mark.parametrize(
    "conv",
    [
        torch.nn.Conv2d(8, 8, 1, stride=2),
        torch.nn.Conv2d(8, 8, 1, padding=1),
        torch.nn.Conv2d(8, 8, 1, padding="same"),
        torch.nn.Conv2d(8, 8, 1, groups=2),
        torch.nn.Conv2d(8, 8, 3),
    ],
    ids=str,
)
def test_other_convolutions_are_pytorchs_own(one_thread, conv):
    x = torch.randn(1, 8, 16, 16)
    assert torch.equal(convolution(x, conv, conv.weight, conv.bias), conv(x))


def test_positions_of_a_whole_level_are_those_of_a_full_mask():
    for shape in ((1, 1), (5, 9), (13, 4)):
        mask = torch.ones(2, *shape, dtype=torch.bool)
        device = mask.device
        whole = sine_position_embedding(shape, None, 32, device)
        assert whole.shape == (1, shape[0] * shape[1], 32)
        torch.testing.assert_close(sine_position_embedding(shape, mask, 32, device), whole.expand(2, -1, -1))
        assert torch.equal(valid_sizes(shape, mask, device), valid_sizes(shape, None, device).expand(2, -1))
        centres = cell_centres(shape, valid_sizes(shape, None, device))
        assert centres[0, 0].tolist() == pytest.approx([0.5 / shape[1], 0.5 / shape[0]])


def test_what_depends_on_sizes_alone_is_kept_bit_for_bit_and_usable_in_training(monkeypatch):
    device, shapes = torch.device("cpu"), [(7, 31), (4, 16)]

    def computed():
        centres = torch.cat([cell_centres(shape, valid_sizes(shape, None, device)) for shape in shapes], 1)
        sines = [sine_position_embedding(shape, None, 32, device) for shape in shapes]
        return [*sines, positions.pixel_sizes(tuple(shapes), device), positions.box_proposals(centres, shapes)]

    with torch.inference_mode():  # whose tensors autograd does not take
        kept = positions.pixel_sizes(tuple(shapes), device), *computed()
    again = computed()
    assert again[2] is kept[0]
    (torch.ones(2, requires_grad=True) * again[2]).sum().backward()
    monkeypatch.setattr(positions, "plain_operations", lambda: False)
    for ours, anew in zip(again, computed(), strict=True):
        assert torch.equal(ours, anew) and ours is not anew


@pytest.mark.parametrize("gamma", [2.0, 1.5, 0])
@pytest.mark.parametrize("positives", [0, 1, 7])
def test_focal_loss_is_torchvisions(gamma, positives):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(3, 50, 6, generator=generator) * 8).requires_grad_()
    index = tuple(torch.randint(0, size, (positives,), generator=generator) for size in logits.shape)
    one_hot = torch.zeros(logits.shape, dtype=torch.float64)
    one_hot[index] = 1
    exact = logits.detach().double().requires_grad_()
    expected = sigmoid_focal_loss(exact, one_hot, 0.3, gamma, reduction="sum")
    loss = focal_loss(logits, index, 0.3, gamma)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    theirs = torch.autograd.grad(expected, exact, torch.tensor(2.0, dtype=torch.float64))[0]
    ours = torch.autograd.grad(loss, logits, torch.tensor(2.0))[0]
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()
    half = logits.detach().bfloat16().requires_grad_()
    focal_loss(half, index, 0.3, gamma).backward()
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_sparse_gradient_is_the_heads_own(rows):
    torch.manual_seed(0)
    head, x = BoxHead(16), torch.randn(2, 300, 16).requires_grad_()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    head[0].bias.requires_grad_(False)
    chosen = torch.randint(0, 2, (rows,)), torch.randperm(300)[:rows]
    leaves = [x, *(p for p in head.parameters() if p.requires_grad)]
    results = []
    for forward in (head, lambda x: with_sparse_gradient(head, x)):
        y = forward(x)
        results.append((y.detach(), *torch.autograd.grad(y[chosen].sigmoid().sum(), leaves)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
