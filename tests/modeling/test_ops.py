"""The operator: every backend against the specification, output and gradients, and what PyTorch asks of an operator."""

from functools import cache

import pytest
import torch

from deformable_detr_refine.modeling import ops
from deformable_detr_refine.modeling.ops import (
    BACKENDS,
    Backend,
    _backend,
    backend_report,
    deformable_attention,
    use_backend,
)
from deformable_detr_refine.modeling.ops_reference import deformable_attention_reference
from deformable_detr_refine.modeling.ops_torch import warn_of_slow_form

CPU = torch.device("cpu")
ON_CPU = [name for name, backend in BACKENDS.items() if backend.unavailable(CPU) is None]
# B, Q, H, C, P, levels: the usual shape, one of everything, odd sizes, more queries than a chunk, one-pixel levels.
AWKWARD = {
    "usual": (2, 50, 8, 32, 4, [(13, 17), (7, 9), (4, 5), (2, 3)]),
    "one": (1, 1, 1, 1, 1, [(1, 1)]),
    "odd": (3, 7, 3, 5, 3, [(5, 3), (1, 7)]),
    "chunks": (2, 1030, 2, 8, 2, [(3, 4), (2, 2)]),
    "thin": (1, 9, 4, 16, 4, [(1, 31), (31, 1), (1, 1)]),
    "few": (2, 3, 2, 3, 2, [(5, 3), (1, 7)]),  # finite differences move every number
}


def inputs(case, dtype=torch.float32, spread=1.4):
    """Locations from -spread / 2 + 0.5 to spread / 2 + 0.5: some outside the level."""
    B, Q, H, C, P, shapes = AWKWARD[case]
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(B, sum(h * w for h, w in shapes), H, C, generator=generator, dtype=torch.float64)
    locations = (torch.rand(B, Q, H, len(shapes), P, 2, generator=generator, dtype=torch.float64) - 0.5) * spread + 0.5
    weights = torch.rand(B, Q, H, len(shapes), P, generator=generator, dtype=torch.float64)
    return value.to(dtype), shapes, locations.to(dtype), weights.to(dtype)


def gradients(function, value, shapes, locations, weights):
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    output = function(leaves[0], shapes, *leaves[1:])
    return output, torch.autograd.grad(
        output, leaves, torch.linspace(-1, 1, output.numel()).view(output.shape).to(output)
    )


def pixel_loop(value, shapes, locations, weights):
    """The definition, pixel by pixel, in Python: what the specification itself is checked against."""
    B, _, H, C = value.shape
    _, Q, _, L, P, _ = locations.shape
    output = torch.zeros(B, Q, H, C, dtype=value.dtype)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(L)]
    for b, q, head, level, point in torch.cartesian_prod(*(torch.arange(n) for n in (B, Q, H, L, P))).tolist():
        h, w = shapes[level]
        x, y = (locations[b, q, head, level, point] * torch.tensor([w, h]) - 0.5).tolist()
        for row in range(h):
            for column in range(w):
                share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                sample = value[b, starts[level] + row * w + column, head]
                output[b, q, head] += share * weights[b, q, head, level, point] * sample
    return output.flatten(2)


def test_specification_is_the_definition():
    arguments = inputs("odd", torch.float64)
    torch.testing.assert_close(deformable_attention_reference(*arguments), pixel_loop(*arguments))


@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("backend", ON_CPU)
def test_output_and_gradients_are_the_specification(backend, case):
    expected, expected_gradients = gradients(deformable_attention_reference, *inputs(case, torch.float64))
    with use_backend(backend):
        output, output_gradients = gradients(deformable_attention, *inputs(case))
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(output_gradients, expected_gradients, strict=True):
        # A location on a cell's border has two derivatives, and fp32 may take the other one: none stands there here.
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ON_CPU)
def test_half_values_keep_fp32_coordinates(backend, dtype):
    value, shapes, locations, weights = inputs("usual")
    with use_backend(backend):
        output = deformable_attention(value.to(dtype), shapes, locations, weights)
    expected = deformable_attention_reference(value.to(dtype).double(), shapes, locations.double(), weights.double())
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-2)


@pytest.mark.parametrize("backend", ON_CPU)
def test_location_that_is_not_finite_gives_nan_in_its_query_only(backend):
    value, shapes, locations, weights = inputs("usual")
    for query, bad in enumerate((torch.nan, torch.inf, -torch.inf)):
        locations[0, query, 0, 0, 0, query % 2] = bad
    with use_backend(backend):
        output = deformable_attention(value, shapes, locations, weights)
    expected = deformable_attention(value, shapes, locations.nan_to_num(0, 0, 0), weights)
    assert output[0, :3, :32].isnan().all()
    assert not output[0, 3:].isnan().any() and not output[0, :, 32:].isnan().any()
    torch.testing.assert_close(output[1], expected[1])


@pytest.mark.parametrize("backend", ON_CPU)
def test_derivatives_are_those_of_finite_differences(backend):
    value, shapes, locations, weights = inputs("few", torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    with use_backend(backend):
        assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, shapes, x, w), leaves)


def test_pytorch_accepts_the_operator():
    value, shapes, locations, weights = inputs("odd")
    flat = [side for shape in shapes for side in shape]
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(
        torch.ops.deformable_detr_refine.deformable_attention.default, (leaves[0], flat, leaves[1], leaves[2])
    )


def test_no_queries_and_no_images():
    value, shapes, locations, weights = inputs("usual")
    assert deformable_attention(value, shapes, locations[:, :0], weights[:, :0]).shape == (2, 0, 256)
    assert deformable_attention(value[:0], shapes, locations[:0], weights[:0]).shape == (0, 50, 256)
    _, (grad_value, *_) = gradients(deformable_attention, value, shapes, locations[:, :0], weights[:, :0])
    assert not grad_value.any()


WRONG = {
    "tokens": lambda value, shapes, locations, weights: (value[:, 1:], shapes, locations, weights),
    "heads": lambda value, shapes, locations, weights: (value[:, :, :2], shapes, locations, weights),
    "images": lambda value, shapes, locations, weights: (value, shapes, locations[:1], weights[:1]),
    "weights": lambda value, shapes, locations, weights: (value, shapes, locations, weights[:, :-1]),
    "negative sides": lambda value, shapes, locations, weights: (value, [-20, -15, *shapes[2:]], locations, weights),
    "one side": lambda value, shapes, locations, weights: (value, shapes[1:], locations, weights),
    "integers": lambda value, shapes, locations, weights: (value.int(), shapes, locations, weights),
    "dimensions": lambda value, shapes, locations, weights: (value[0], shapes, locations, weights),
    "levels": lambda value, shapes, locations, weights: (value, [*shapes, 0, 0], locations, weights),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_inputs_that_do_not_fit_never_reach_a_backend(wrong, monkeypatch):
    value, shapes, locations, weights = inputs("usual")
    flat = [side for shape in shapes for side in shape]
    broken = WRONG[wrong](value, flat, locations, weights)
    operators = torch.ops.deformable_detr_refine
    reached = lambda *inputs: pytest.fail("a backend was reached")  # noqa: E731
    monkeypatch.setitem(BACKENDS, "torch", Backend(reached, reached, lambda device: None))
    with use_backend("torch"):
        with pytest.raises(ValueError):
            operators.deformable_attention(*broken)
        grad_output = torch.zeros(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
        with pytest.raises(ValueError):
            operators.deformable_attention_backward(grad_output, *broken)
        with pytest.raises(ValueError, match="grad_output"):
            operators.deformable_attention_backward(grad_output[:, 1:], value, flat, locations, weights)


def test_errors_say_what_does_not_fit():
    value, shapes, locations, weights = inputs("usual")
    with pytest.raises(ValueError, match=r"do not add up to value's 300 tokens"):
        deformable_attention(value[:, :300], shapes, locations, weights)
    with pytest.raises(ValueError, match=r"do not fit 2 images, 8 heads and 4 levels"):
        deformable_attention(value, shapes, locations[:, :, :7], weights[:, :, :7])
    with pytest.raises(ValueError, match=r"attention_weights .* do not fit"):
        deformable_attention(value, shapes, locations, weights[..., :3])
    with pytest.raises(ValueError, match=r"\(B, S, H, C\)"):
        deformable_attention(value[0], shapes, locations, weights)
    with pytest.raises(ValueError, match="No backend is called 'quick'"), use_backend("quick"):
        pass


def test_accelerator_without_a_kernel_says_so_once(monkeypatch):
    monkeypatch.setattr(ops, "warn_of_slow_form", cache(warn_of_slow_form.__wrapped__))  # which has said nothing yet
    with (
        use_backend(None),
        pytest.warns(match="Deformable attention on mps runs as grid_sample, which is slow: ") as told,
    ):
        for _ in range(2):
            assert _backend(torch.device("mps")) is BACKENDS["torch"]
    # Others' may be among them: of files, say, that earlier tests left open.
    assert sum("grid_sample" in str(warning.message) for warning in told) == 1


def test_report_names_the_backend_that_runs():
    report = backend_report()
    assert [row["chosen"] for row in report].count(True) == 1
    with use_backend("reference"):
        assert next(row for row in backend_report() if row["chosen"])["backend"] == "reference"
    assert all(row["available"] or row["reason"] for row in report)
