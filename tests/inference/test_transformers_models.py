"""transformers' own models compute the same on this package's operator, and are themselves again afterwards."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import MethodType

import pytest
import torch
from support.transformers_models import SETTINGS, inputs_of, masked, numbers, small_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deformable_detr_refine import accelerate_transformers
from deformable_detr_refine.inference.transformers_models import MODELS

OURS = "deformable_detr_refine::deformable_attention"
CLASS_FORM, FUNCTION_FORM = "deformable_detr", "mask2former"
both_forms = pytest.mark.parametrize("name", [CLASS_FORM, FUNCTION_FORM])


class Seen(TorchDispatchMode):
    """How often each operation runs."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.counts[operator.name()] = self.counts.get(operator.name(), 0) + 1
        return operator(*args, **(kwargs or {}))

    @property
    def ours(self) -> int:
        return self.counts.get(OURS, 0)

    @property
    def grids(self) -> int:
        return self.counts.get("aten::grid_sampler_2d", 0)


def operations(model, inputs) -> Seen:
    with Seen() as seen, torch.no_grad():
        model(**inputs)
    return seen


def places() -> dict:
    """What each model file of transformers has as its deformable attention."""
    found = {}
    for name in MODELS:
        module = import_module(f"transformers.models.{name}.modeling_{name}")
        if layer := getattr(module, "MultiScaleDeformableAttention", None):
            found[name] = vars(layer)["forward"], layer
        else:
            found[name] = (module.multi_scale_deformable_attention,)
    return found


def same_objects(before: dict) -> bool:
    now = places()
    return all(a is b for name in before for a, b in zip(before[name], now[name], strict=True))


def assert_same_numbers(ours: dict[str, Tensor], own: dict[str, Tensor], model, tolerance: float = 1e-5):
    """Within `tolerance` of the tensor's largest, of gradients at least a thousandth of the largest of all."""
    parameters = dict(model.named_parameters())
    assert ours.keys() == own.keys() and any(name in parameters for name in own)
    steepest = max(own[name].abs().max() for name in own if name in parameters)
    for name, expected in own.items():
        finite = expected.isfinite()
        assert torch.equal(finite, ours[name].isfinite()), name
        difference = (ours[name] - expected)[finite].abs().max()
        largest = expected[finite].abs().max()
        assert difference <= tolerance * max(largest, steepest / 1000 if name in parameters else 1), name


@pytest.fixture(autouse=True)
def off_afterwards():
    before = places()
    yield
    assert same_objects(before)


def test_every_model_is_tried():
    assert sorted(SETTINGS) == sorted(MODELS) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_transformers_own(name):
    model, inputs = small_model(name), inputs_of(name)
    takes_mask = "pixel_mask" in inspect.signature(model.forward).parameters
    for given in (inputs, masked(inputs)) if takes_mask else (inputs,):
        own = numbers(model, given)
        with accelerate_transformers():
            ours = numbers(model, given)
        assert_same_numbers(ours, own, model)
        again = numbers(model, given)
        assert all(torch.equal(again[key], value) for key, value in own.items())
    grids = operations(model, inputs).grids
    with accelerate_transformers():
        seen = operations(model, inputs)
    assert seen.ours and not seen.grids and grids


@both_forms
@pytest.mark.parametrize("mask", [False, True])
def test_bfloat16_is_no_worse(name, mask):
    """Beside the same weights in fp32. Inside, the operator rounds once where `grid_sample` rounds every sample."""
    model, inputs = small_model(name), inputs_of(name)
    model.bfloat16().float()
    exact = first_output(model, masked(inputs) if mask else inputs)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    given = masked(inputs) if mask else inputs
    model.bfloat16()
    own = first_output(model, given)
    with accelerate_transformers():
        ours = first_output(model, given)
        assert operations(model, given).ours
    assert ours.dtype == own.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() < 1.2 * (own - exact).abs().mean()


def first_output(model, inputs) -> Tensor:
    with torch.no_grad():
        return next(iter(output for output in model(**inputs).values() if isinstance(output, Tensor)))


@both_forms
def test_autocast_gives_the_same(name):
    """`grid_sample` computes in fp32 then, and the next product rounds; the operator sums in fp32 and rounds itself."""
    model, inputs = small_model(name), inputs_of(name)
    exact = first_output(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        own = first_output(model, inputs)
        with accelerate_transformers():
            ours = first_output(model, inputs)
            assert operations(model, inputs).ours
    assert ours.dtype == own.dtype
    assert (ours - own).abs().mean() < 0.5 * (own - exact).abs().mean()


def test_awkward_shapes_are_computed_too():
    """One head of five channels, one query, one point, a level of one line, points outside; no query at all; fp64."""
    module = import_module("transformers.models.deformable_detr.modeling_deformable_detr")
    layer = module.MultiScaleDeformableAttention()
    for queries, heads, channels, points, dtype in (
        (1, 1, 5, 1, torch.float32),
        (3, 2, 48, 3, torch.float32),
        (0, 2, 4, 2, torch.float32),
        (7, 3, 24, 4, torch.float64),
    ):
        shapes = [(1, 4), (3, 2)]
        value = torch.randn(2, 10, heads, channels, dtype=dtype)
        locations = torch.rand(2, queries, heads, 2, points, 2, dtype=dtype) * 1.6 - 0.3
        weights = torch.rand(2, queries, heads, 2, points, dtype=dtype)
        arguments = (value, torch.tensor(shapes), shapes, torch.tensor([0, 4]), locations, weights, 64)
        own = layer(*arguments)
        with accelerate_transformers():
            ours = layer(*arguments)
        assert ours.dtype == own.dtype and ours.shape == own.shape
        torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)


@both_forms
def test_a_model_loaded_or_built_later_runs_on_it(name, tmp_path):
    model, inputs = small_model(name), inputs_of(name)
    model.save_pretrained(tmp_path)
    with accelerate_transformers():
        later = small_model(name), type(model).from_pretrained(tmp_path).eval()
        ours = [numbers(each, inputs) for each in later]
        assert all(operations(each, inputs).ours for each in later)
    for each, found in zip(later, ours, strict=True):
        assert type(each) is type(model) and not operations(each, inputs).ours
        assert_same_numbers(found, numbers(each, inputs), each)


def test_every_place_is_replaced_and_restored():
    before = places()
    with accelerate_transformers():
        during = places()
        assert not any(before[name][0] is during[name][0] for name in MODELS)
        assert all(before[name][1:] == during[name][1:] for name in MODELS)  # the class stays itself
    assert same_objects(before)


def test_nested_blocks_and_calls_switch_off_with_the_last():
    before = places()
    active = accelerate_transformers()
    with accelerate_transformers(), accelerate_transformers():
        assert not same_objects(before)
    assert not same_objects(before)
    active.close()
    active.close()
    assert same_objects(before)
    with pytest.raises(KeyError), accelerate_transformers():
        raise KeyError
    assert same_objects(before)


def test_threads_may_come_and_go():
    def use(_):
        for _ in range(20):
            with accelerate_transformers():
                assert MODELS

    before = places()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    assert same_objects(before)


def test_what_another_puts_in_its_place_stays(monkeypatch):
    """Restoring would take it away; ours, which it may call, hands on to transformers' own."""
    model, inputs = small_model(CLASS_FORM), inputs_of(CLASS_FORM)
    layer = places()[CLASS_FORM][1]
    active = accelerate_transformers()
    ours = vars(layer)["forward"]
    monkeypatch.setattr(layer, "forward", lambda self, *args: ours(self, *args))
    theirs = vars(layer)["forward"]
    active.close()
    assert vars(layer)["forward"] is theirs and not operations(model, inputs).ours
    monkeypatch.undo()
    layer.forward = ours.__wrapped__


def test_a_kernel_of_its_own_is_left_to_a_model():
    """`use_kernels=True` gives each layer a forward of its own."""
    model, inputs = small_model(CLASS_FORM), inputs_of(CLASS_FORM)
    for module in model.modules():
        if type(module).__name__ == "MultiScaleDeformableAttention":
            module.forward = MethodType(type(module).forward, module)
    with accelerate_transformers():
        assert not operations(model, inputs).ours


@pytest.mark.slow
@both_forms
def test_compiles_as_one_graph(name):
    """And again when it is switched off."""
    model, inputs = small_model(name), inputs_of(name)
    own, graphs = first_output(model, inputs), []

    def backend(graph, _):
        graphs.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with accelerate_transformers():
        torch.testing.assert_close(first_output(compiled, inputs), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first_output(compiled, inputs), own, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()
    during, after = graphs
    assert "deformable_attention" in during and "grid_sample" not in during
    assert "deformable_attention" not in after and "grid_sample" in after


@pytest.mark.slow
def test_exports_as_before():
    """With transformers' own operations, for who has not this package."""
    model, inputs = small_model(CLASS_FORM), inputs_of(CLASS_FORM)
    own = first_output(model, inputs)
    with accelerate_transformers():
        program = torch.export.export(model, (), inputs)
    assert "deformable_detr_refine" not in str(program.graph)
    torch.testing.assert_close(first_output(program.module(), inputs), own, rtol=1e-5, atol=1e-5)


def test_shapes_as_a_tensor_go_to_transformers_own_function():
    module = import_module("transformers.models.mask2former.modeling_mask2former")
    value, locations, weights = torch.randn(1, 6, 1, 4), torch.rand(1, 2, 1, 1, 3, 2), torch.rand(1, 2, 1, 1, 3)
    own = module.multi_scale_deformable_attention(value, [(2, 3)], locations, weights)
    with accelerate_transformers():
        given = module.multi_scale_deformable_attention(value, torch.tensor([[2, 3]]), locations, weights)
    assert torch.equal(given, own)
