"""The C backend against the specification in fp64, at awkward sizes, on bad input, on many threads and after a fork."""

import importlib.util
import itertools
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from deformable_detr_refine.modeling import c_library, ops_c
from deformable_detr_refine.modeling.ops import deformable_attention, use_backend
from deformable_detr_refine.modeling.ops_c import c_backward, c_forward, c_unavailable
from deformable_detr_refine.modeling.ops_reference import deformable_attention_reference
from deformable_detr_refine.modeling.ops_torch import torch_backward, torch_forward

CPU = torch.device("cpu")
FOLDER = Path(ops_c.__file__).parent
BUILDS = [build for build in ("baseline", "avx2") if c_library.path_of(FOLDER, build).exists()]
LEVELS = [(13, 17), (7, 9), (1, 6), (5, 1), (1, 1)]
needs_library = pytest.mark.skipif(bool(c_unavailable(CPU)), reason=str(c_unavailable(CPU)))


@pytest.fixture(params=BUILDS)
def build(request, monkeypatch):
    """Every build that this processor runs, not only the best."""
    if request.param == "avx2" and not c_library.library()[0].deformable_attention_has_avx2():
        pytest.skip("this processor has no AVX2")
    library = c_library.open_library(c_library.path_of(FOLDER, request.param))
    monkeypatch.setattr(ops_c, "loaded_library", lambda: library)
    return request.param


def inputs(B=2, Q=30, H=3, C=32, P=4, levels=LEVELS, dtype=torch.float32, seed=0):
    """Value, shapes, locations with a seventh of them outside, weights and the output's gradient."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(B, sum(h * w for h, w in levels), H, C, generator=generator).to(dtype)
    locations = torch.rand(B, Q, H, len(levels), P, 2, generator=generator) * 1.2 - 0.1
    weights = torch.rand(B, Q, H, len(levels) * P, generator=generator).softmax(-1).view(B, Q, H, len(levels), P)
    return value, levels, locations, weights, torch.randn(B, Q, H * C, generator=generator).to(dtype)


def in_fp64(value, levels, locations, weights, grad_output):
    """The specification's output and gradients of value, locations and weights."""
    leaves = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    output = deformable_attention_reference(leaves[0], levels, *leaves[1:])
    return output.detach(), *torch.autograd.grad(output, leaves, grad_output.double())


def in_c(value, levels, locations, weights, grad_output):
    output = c_forward(value, levels, locations, weights)
    return output, *c_backward(grad_output, value, levels, locations, weights)


def assert_as_specified(arguments, tolerances=(2e-6, 2e-6, 2e-6, 2e-6)):
    names = ("output", "grad_value", "grad_locations", "grad_weights")
    for name, ours, theirs, tolerance in zip(names, in_c(*arguments), in_fp64(*arguments), tolerances, strict=True):
        assert ours.shape == theirs.shape
        error = (ours.double() - theirs).norm() / theirs.norm().clamp(min=1e-30)
        assert error < tolerance, f"{name} is off by {error:.1e}"


def test_there_is_a_library_where_there_is_a_compiler():
    if shutil.which("cc"):
        assert c_unavailable(CPU) is None, "install the package again: pip install -e ."


def test_another_device_is_refused():
    assert c_unavailable(torch.device("cuda")) == "it computes on the CPU, not on cuda"


@needs_library
def test_avx2_is_used_where_the_processor_has_it():
    if not Path("/proc/cpuinfo").exists() or len(BUILDS) == 1:
        pytest.skip("nothing here tells what the processor has")
    has_avx2 = {"avx2", "fma"} <= set(Path("/proc/cpuinfo").read_text().split())
    for build in BUILDS:
        library = c_library.open_library(c_library.path_of(FOLDER, build))
        assert library.deformable_attention_has_avx2() == has_avx2
    assert ("avx2" in c_library.library()[0]._name) == has_avx2


@needs_library
def test_a_copy_that_travelled_with_a_model_uses_the_installed_library(tmp_path):
    copy = shutil.copy(c_library.__file__, tmp_path)
    spec = importlib.util.spec_from_file_location("travelled", copy)
    travelled = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(travelled)
    assert Path(travelled.library()[0]._name).resolve().parent == FOLDER.resolve()


def test_no_library_is_a_reason(monkeypatch):
    monkeypatch.setattr(c_library, "SUFFIX", ".none")
    monkeypatch.setattr(ops_c, "library", c_library.library.__wrapped__)
    assert "not built" in c_unavailable(CPU)


@needs_library
@pytest.mark.parametrize("queries", [1, 7, 200], ids="Q{}".format)
@pytest.mark.parametrize("channels", [1, 3, 8, 32, 40, 64], ids="C{}".format)
def test_any_channels(build, channels, queries):
    assert_as_specified(inputs(C=channels, Q=queries))


@needs_library
@pytest.mark.parametrize("points", range(1, 6), ids="P{}".format)
@pytest.mark.parametrize("levels", range(1, 6), ids="L{}".format)
def test_any_levels_and_points(build, levels, points):
    for queries in (1, 60):  # in place, and on a copy of the values
        assert_as_specified(inputs(levels=LEVELS[:levels], P=points, Q=queries))


@needs_library
@pytest.mark.parametrize("heads", range(1, 10), ids="H{}".format)
@pytest.mark.parametrize("images", [1, 3], ids="B{}".format)
def test_any_heads_and_images(build, heads, images):
    assert_as_specified(inputs(B=images, H=heads, C=8, Q=11))


@needs_library
def test_few_queries_are_read_in_place_and_many_from_a_copy():
    assert [ops_c._work(*inputs(Q=queries)[:4]).direct for queries in (1, 200)] == [1, 0]


@needs_library
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [5, 32])
def test_half_values(build, dtype, channels):
    eps = torch.finfo(dtype).eps
    assert_as_specified(inputs(C=channels, dtype=dtype), (eps, eps, 2e-6, 2e-6))
    output, grad_value, grad_locations, grad_weights = in_c(*inputs(C=channels, dtype=dtype))
    assert output.dtype == grad_value.dtype == dtype and grad_locations.dtype == grad_weights.dtype == torch.float32


@needs_library
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_half_number_is_read_and_rounded_as_torch_does(build, dtype):
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    pairs = torch.stack((numbers, numbers[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))]), -1)
    value = pairs.reshape(2, 2**15, 2).mT.reshape(1, 2, 1, 2**16)  # two pixels, a pair of numbers in each channel
    centres = torch.tensor([0.25, 0.5, 0.75, 0.5]).view(1, 1, 1, 1, 2, 2)
    for weights in ((1.0, 0.0), (0.5, 0.5), (1e-3, 0.0)):
        weights = torch.tensor(weights).view(1, 1, 1, 1, 2)
        expected = (value.float()[:, :, 0] * weights.view(1, 2, 1)).sum(1).to(dtype).view(1, 1, -1)
        output = c_forward(value, [(1, 2)], centres, weights)
        torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)


@needs_library
def test_tensors_that_are_not_contiguous(build):
    value, levels, locations, weights, grad_output = inputs(B=2, Q=30, H=3)
    strided = (
        value.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        levels,
        locations.flip(-1).contiguous().flip(-1)[:, :1].expand_as(locations),
        weights.double()[..., :1].expand_as(weights),
        grad_output[:1, :1].expand_as(grad_output),
    )
    assert not any(tensor.is_contiguous() for tensor in strided if isinstance(tensor, torch.Tensor))
    assert_as_specified(strided)


@needs_library
def test_beside_a_pixels_centre_the_derivative_is_that_of_the_right_cell(build):
    """In fp32, size * x - 0.5 rounds onto the centre for one location in 100,000, and the derivative jumps there."""
    levels = [(331, 1009), (1, 4096)]
    centres = torch.cat([(torch.arange(w) + 0.5) / w for _, w in levels])
    centres = torch.cat((centres, centres.nextafter(torch.tensor(2.0)), centres.nextafter(torch.tensor(-2.0))))
    value, _, _, _, grad_output = inputs(B=1, H=1, C=8, Q=len(centres), levels=levels)
    locations = centres.view(1, -1, 1, 1, 1, 1).expand(-1, -1, -1, 2, 1, 2).contiguous()
    assert_as_specified((value, levels, locations, torch.ones(locations.shape[:-1]), grad_output))


@needs_library
@pytest.mark.parametrize("queries", [1, 50], ids="Q{}".format)
def test_a_location_that_is_not_finite_spoils_its_own_query_and_head(build, queries):
    value, levels, locations, weights, grad_output = inputs(Q=queries)
    locations[0, 0, 0, 0, 0, 0], locations[0, 0, 1, 1, 1, 1], locations[1, 0, 2, 2, 2] = (
        torch.nan,
        torch.inf,
        -torch.inf,
    )
    bad = ~locations.isfinite().all(-1)
    results = in_c(value, levels, locations, weights, grad_output)
    expected = in_fp64(value, levels, torch.where(bad.unsqueeze(-1), 5, locations), weights, grad_output)
    output = results[0].view(2, queries, 3, 32)
    touched = bad.flatten(-2).any(-1)
    assert output[touched].isnan().all() and results[2][bad].isnan().all() and results[3][bad].isnan().all()
    # Elsewhere nothing changes, and no gradient of a value is touched.
    torch.testing.assert_close(
        output[~touched].double(), expected[0].view(output.shape)[~touched], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(results[1].double(), expected[1], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(results[2:], expected[2:], strict=True):
        torch.testing.assert_close(ours[~bad].double(), theirs[~bad], rtol=1e-3, atol=1e-4)


@needs_library
@pytest.mark.parametrize("place", [1e3, -1e3, 1e30, -1e30, 3e38], ids=str)
def test_locations_far_outside_give_zeros(build, place):
    value, levels, locations, weights, grad_output = inputs(levels=LEVELS[-1:], Q=40)
    value[:] = torch.nan  # is not even read
    for result in in_c(value, levels, torch.full_like(locations, place), weights, grad_output):
        assert not result.any()


@needs_library
@pytest.mark.parametrize("queries", [3, 100], ids="Q{}".format)
def test_nan_in_a_value_reaches_who_samples_it(build, queries):
    arguments = inputs(Q=queries)
    arguments[0][0, 40, 1, 3] = torch.nan
    for ours, theirs in zip(in_c(*arguments), in_fp64(*arguments), strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())


@needs_library
@pytest.mark.parametrize("empty", ["images", "queries", "channels", "levels", "points", "tokens"])
def test_nothing_to_do(empty):
    sizes = {"images": {"B": 0}, "queries": {"Q": 0}, "channels": {"C": 0}, "points": {"P": 0}}
    sizes |= {"levels": {"levels": []}, "tokens": {"levels": [(0, 3), (0, 0)]}}
    value, levels, locations, weights, grad_output = inputs(**sizes[empty])
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    with use_backend("c"):
        output = deformable_attention(value, levels, locations, weights)
        gradients = torch.autograd.grad(output, leaves, grad_output)
    assert output.shape == grad_output.shape and not output.any()
    assert [tensor.shape for tensor in gradients] == [value.shape, locations.shape, weights.shape]
    assert not any(tensor.any() for tensor in gradients)


@needs_library
def test_more_tokens_than_it_can_count_are_refused():
    value, levels, locations, weights, _ = inputs()
    with pytest.raises(ValueError, match=r"2\*\*28"):
        c_forward(
            value,
            [*levels, (0, 2**40)],
            locations[:, :, :, :1].expand(-1, -1, -1, 6, -1, -1),
            weights[:, :, :, :1].expand(-1, -1, -1, 6, -1),
        )


@needs_library
def test_defaults_of_torch_do_not_matter(build):
    arguments = inputs()
    expected = in_c(*arguments)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            results = in_c(*arguments)
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(results, expected, strict=True):
        assert torch.equal(ours, theirs)


@needs_library
def test_fp64_takes_the_torch_backend():
    value, levels, locations, weights, grad_output = inputs(dtype=torch.float64)
    arguments = value, levels, locations.double(), weights.double()
    assert torch.equal(c_forward(*arguments), torch_forward(*arguments))
    for ours, theirs in zip(c_backward(grad_output, *arguments), torch_backward(grad_output, *arguments), strict=True):
        assert torch.equal(ours, theirs)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_pytorch_accepts_the_operators(dtype):
    value, levels, locations, weights, grad_output = inputs(Q=5, dtype=dtype)
    flat = list(itertools.chain(*levels))
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    namespace = torch.ops.deformable_detr_refine
    with use_backend("c"):
        torch.library.opcheck(namespace.deformable_attention.default, (leaves[0], flat, *leaves[1:]))
        torch.library.opcheck(
            namespace.deformable_attention_backward.default,
            (grad_output, leaves[0].detach(), flat, *(leaf.detach() for leaf in leaves[1:])),
            test_utils=("test_schema", "test_faketensor"),
        )


@needs_library
def test_results_do_not_depend_on_the_number_of_threads(build):
    arguments = inputs(Q=400)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 5, 2, 1):
            torch.set_num_threads(threads)
            runs.append(in_c(*arguments))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(run, runs[0], strict=True))


@needs_library
def test_python_threads_do_not_disturb_each_other():
    cases = [inputs(Q=200 + 10 * seed, seed=seed) for seed in range(8)]
    expected = [in_c(*case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for results, ours in zip(pool.map(lambda case: in_c(*case), cases), expected, strict=True):
                assert all(torch.equal(one, other) for one, other in zip(results, ours, strict=True))


def _in_child(arguments, expected, threads, owner):
    torch.set_num_threads(2)
    results = in_c(*arguments)
    torch.set_num_threads(1)  # OpenMP, which torch's own operators use, would hang after a fork
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, expected, strict=True))
    owner.value = c_library._pool[0]
    threads.value = len(c_library._pool[1]._threads)


@needs_library
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    arguments = inputs(Q=400)
    expected = in_c(*arguments)  # starts this process's threads
    context = multiprocessing.get_context("fork")
    threads, owner = context.Value("i", 0), context.Value("i", 0)
    child = context.Process(target=_in_child, args=(arguments, expected, threads, owner), daemon=True)
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0, "the forked process hangs or died"
    assert owner.value == child.pid and threads.value >= 1


@needs_library
def test_a_batch_is_its_images_one_by_one():
    value, levels, locations, weights, _ = inputs(B=3, Q=50)
    with use_backend("c"):
        whole = deformable_attention(value, levels, locations, weights)
        parts = [
            deformable_attention(value[i : i + 1], levels, locations[i : i + 1], weights[i : i + 1]) for i in range(3)
        ]
    assert torch.equal(whole, torch.cat(parts))
