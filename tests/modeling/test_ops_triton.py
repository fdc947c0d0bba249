"""The Triton backend without a GPU: Triton's interpreter against the specification, and the code for sm_80 and sm_90.

Triton decides at its import whether it interprets, so that all interpreted cases run in one process of their own:
this file as a script.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from transformers.dynamic_module_utils import get_imports

from deformable_detr_refine.modeling import ops_triton
from deformable_detr_refine.modeling.ops import backend_report, deformable_attention, use_backend
from deformable_detr_refine.modeling.ops_reference import deformable_attention_reference

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret and __name__ != "__main__":
    pytest.skip("This process interprets Triton and cannot compile.", allow_module_level=True)

THREE_LEVELS = [(5, 3), (1, 7), (2, 2)]
# B, Q (None: one query per token, in tiles), H, C, P, levels.
SIZES = {
    **{f"{channels} channels": (1, 3, 2, channels, 1, [(2, 3)]) for channels in (2, 4, 8, 16, 32, 64)},
    **{
        f"{n} levels, {6 - n} points": (1, 3, 1, 4, 6 - n, [(3, 2), (1, 4), (2, 2), (1, 1), (5, 1)][:n])
        for n in range(1, 6)
    },
    "odd queries and heads, two images": (2, 17, 3, 4, 2, THREE_LEVELS),
    "one of almost everything": (1, 1, 1, 2, 1, [(1, 1)]),
    "tiles": (1, None, 1, 4, 1, [(9, 17), (8, 8), (1, 9)]),
}
# The rest at one size: what is special -> how the inputs differ.
SPECIAL = (
    "far outside",
    "not finite",
    "not contiguous",
    "bfloat16",
    "float16",
    "all in bfloat16",
    "coordinates in double",
)
FALLBACK = {f"{channels} channels": (1, 3, 1, channels, 1, [(2, 3)]) for channels in (1, 5, 128)}
BAD = [
    (torch.nan, 0.5),
    (0.5, torch.nan),
    (torch.inf, 0.5),
    (0.3, -torch.inf),
    (1e30, 0.5),
    (-1e9, 1e9),
    (torch.nan, 7.0),
]


def inputs(name):
    """Value, levels, locations, weights and the output's gradient."""
    B, Q, H, C, P, shapes = (SIZES | FALLBACK).get(name, (2, 9, 2, 8, 2 if name == "not finite" else 1, THREE_LEVELS))
    S = sum(h * w for h, w in shapes)
    Q = Q or S
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(B, S, H, C, generator=generator)
    locations = torch.rand(B, Q, H, len(shapes), P, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(B, Q, H, len(shapes), P, generator=generator)
    grad = torch.randn(B, Q, H * C, generator=generator)
    if name == "far outside":
        locations = (locations - 0.5) * 1e5
    elif name == "not finite":
        locations[0, : len(BAD), 0, 1, 0] = torch.tensor(BAD)
    elif name == "not contiguous":
        value, locations, weights, grad = (
            t.transpose(0, 1).contiguous().transpose(0, 1) for t in (value, locations, weights, grad)
        )
    elif name == "coordinates in double":
        locations, weights = locations.double(), weights.double()
    elif name in ("bfloat16", "float16", "all in bfloat16"):
        dtype = getattr(torch, name.split()[-1])
        value, grad = value.to(dtype), grad.to(dtype)
        if name.startswith("all"):
            # Multiples of 1/16 survive in locations; the odd 1/64 keeps them off the cells' borders.
            locations, weights = (locations * 16).round().div(16).add(1 / 64).to(dtype), weights.to(dtype)
    return value, shapes, locations, weights, grad


def results(function, value, shapes, locations, weights, grad):
    """The output and the gradients of value, locations and weights."""
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    output = function(leaves[0], shapes, *leaves[1:])
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def interpret(target):
    """Compute everything in Triton's interpreter and save it."""
    found = {"chosen by itself": next(row["backend"] for row in backend_report() if row["chosen"])}
    with use_backend("triton"):
        for name in (*SIZES, *FALLBACK, *SPECIAL):
            found[name] = results(deformable_attention, *inputs(name))
    torch.save(found, target)


@pytest.fixture(scope="session")
def interpreted(tmp_path_factory):
    target = tmp_path_factory.mktemp("triton") / "results.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("DDETR_BACKEND", None)
    subprocess.run([sys.executable, __file__, str(target)], check=True, env=environment)
    return torch.load(target)


@pytest.mark.parametrize("name", [*SIZES, *FALLBACK, *SPECIAL])
def test_output_and_gradients_are_the_specification(interpreted, name):
    value, shapes, locations, weights, grad = inputs(name)
    doubles = value.double(), shapes, locations.double(), weights.double(), grad.double()
    expected = results(deformable_attention_reference, *doubles)
    for ours, theirs, like in zip(interpreted[name], expected, (value, value, locations, weights), strict=True):
        assert ours.dtype == like.dtype
        # A few units in the last place of sums, which are fp32, and one of the type that they are stored in.
        tolerance = max(1e-5, torch.finfo(like.dtype).eps)
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_location_that_is_not_finite_stays_in_its_query_and_head(interpreted):
    output, grad_value, *_ = interpreted["not finite"]
    bad = torch.tensor([not torch.tensor(pair).isfinite().all() for pair in BAD] + [False, False])
    nan = output.view(2, 9, 2, 8).isnan()
    assert nan[0, bad, 0].all() and nan.sum() == bad.sum() * 8
    assert grad_value.isfinite().all()


def test_interpreter_is_used_only_when_asked_for(interpreted):
    assert interpreted["chosen by itself"] != "triton"


def test_no_fixed_order_of_additions_is_an_error_that_says_what_to_do(monkeypatch):
    value, shapes, locations, weights, grad = inputs("2 channels")
    monkeypatch.setattr(ops_triton, "_launch", lambda *arguments, **named: None)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="train on the CPU"):
            ops_triton.triton_backward(grad, value, shapes, locations, weights)
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="no fixed order"):
            ops_triton.triton_backward(grad, value, shapes, locations, weights)
    finally:
        torch.use_deterministic_algorithms(False)


def test_reason_why_it_does_not_run_here():
    assert "on a GPU, not on cpu" in ops_triton.triton_unavailable(torch.device("cpu"), by_name=True)
    with use_backend("triton"), pytest.raises(ValueError, match="triton backend does not run here"):
        deformable_attention(*inputs("1 channels")[:4])


def test_module_does_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = spec_from_file_location("deformable_detr_refine.modeling.ops_without_triton", ops_triton.__file__)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.triton_unavailable(torch.device("cuda"), by_name=False) == "triton is not installed"


def test_custom_code_does_not_require_triton():
    assert "triton" not in get_imports(ops_triton.__file__)


class FakeGPU:
    """What Triton asks a driver before it compiles and, to tune, how long a call takes."""

    def __init__(self, generation, seconds=None):
        self.generation, self.seconds = generation, seconds

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("hip", "gfx942", 64) if self.generation == "gfx942" else GPUTarget("cuda", self.generation, 32)

    def get_current_device(self):
        return self.generation  # a number of its own, since Triton keeps what it compiled by the device's number

    def get_current_stream(self, device):
        return 0

    def get_benchmarker(self):
        return lambda call, quantiles: (call(), [self.seconds()] * 3)[1]


class Launches(list):
    """(grid, compiled kernel) of each launch, in place of running it."""

    def forward(self):
        return [compiled for _, compiled in self if compiled.name == "_forward_kernel"][-1]

    def backward(self):
        return [compiled for _, compiled in self if compiled.name == "_backward_kernel"][-1]


@pytest.fixture
def launches(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton-cache"))
    launches, run = Launches(), triton.runtime.JITFunction.run

    def compile_only(kernel, grid, warmup, **arguments):
        launches.append((grid(arguments), run(kernel, grid=grid, warmup=True, **arguments)))

    monkeypatch.setattr(triton.runtime.JITFunction, "run", compile_only)
    return launches


def call(monkeypatch, gpu, dtype=torch.float32, channels=32, shapes=((8, 9), (5, 5)), queries=None, points=4):
    """Forward and backward as on a GPU, with values of that type and everything else in fp32."""
    monkeypatch.setattr(triton.runtime.driver, "_active", gpu)
    S = sum(h * w for h, w in shapes)
    Q = queries or S
    value, locations = torch.empty(1, S, 8, channels, dtype=dtype), torch.empty(1, Q, 8, len(shapes), points, 2)
    ops_triton.triton_forward(value, shapes, locations, locations[..., 0])
    return ops_triton.triton_backward(torch.empty(1, Q, 8 * channels), value, shapes, locations, locations[..., 0])


# Triton 3.8 writes atom, of which ptxas makes the same instruction when nothing reads the result; later ones write red.
ADD = r"(?:red|atom)\.global\S*\.relaxed\.add"


def widths(instruction, kind, ptx):
    return set(re.findall(rf"{instruction}(|\.v\d)\.{kind}\b", ptx))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("generation", [80, 90])
def test_memory_is_read_and_added_to_in_vectors(launches, monkeypatch, generation, dtype):
    call(monkeypatch, FakeGPU(generation), dtype)
    forward, backward = launches.forward().asm["ptx"], launches.backward().asm["ptx"]
    # 16 bytes are 4 floats or 8 halves.
    assert widths(r"ld\.global\S*?", "b32", forward) >= {".v4"} and widths(r"st\.global\S*?", "b32", forward) == {".v4"}
    assert not re.search(r"\.shared\b|bar\.sync", forward)
    # Backward: four channels a thread, which are 8 bytes of halves. The output's gradient is fp32 here.
    assert widths(r"ld\.global\S*?", "b32", backward) >= {".v4", ".v4" if dtype == torch.float32 else ".v2"}
    # sm_80 adds single numbers: the lanes of a warp, to neighbouring channels.
    assert widths(ADD, "f32", backward) == {".v4" if generation >= 90 else ""}
    assert not re.search(r"\.local\b", forward + backward)


@pytest.mark.parametrize("channels, vector", [(2, ""), (16, ".v4"), (64, ".v4")])
def test_vectors_are_as_wide_as_halves_allow(launches, monkeypatch, channels, vector):
    call(monkeypatch, FakeGPU(90), channels=channels)
    assert vector in widths(r"ld\.global\S*?", "b32", launches.forward().asm["ptx"])
    assert widths(ADD, "f32", launches.backward().asm["ptx"]) == {vector}


@pytest.mark.slow
@pytest.mark.parametrize("queries", [None, 300], ids=["encoder", "decoder"])
@pytest.mark.parametrize("generation", [80, 90, 100])
def test_registers_are_enough(launches, monkeypatch, generation, queries, tmp_path):
    tool = shutil.which("cuobjdump", path=Path(triton.__file__).parent / "backends" / "nvidia" / "bin")
    if tool is None:
        pytest.skip("Triton came without cuobjdump")
    call(monkeypatch, FakeGPU(generation), shapes=((100, 167), (50, 84), (25, 42), (13, 21)), queries=queries)
    for _, compiled in launches:
        (tmp_path / "cubin").write_bytes(compiled.asm["cubin"])
        usage = subprocess.run(
            [tool, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True
        ).stdout
        spilled = sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", usage)))  # bytes a thread
        assert spilled <= (16 if generation < 90 and compiled.name == "_backward_kernel" else 0), usage


def test_compiles_for_amd(launches, monkeypatch):
    if "amd" not in triton.backends.backends:
        pytest.skip("Triton came without AMD's backend")
    call(monkeypatch, FakeGPU("gfx942"))
    assert "load_dwordx4" in launches.forward().asm["amdgcn"]
    assert "atomic_add_f32" in launches.backward().asm["amdgcn"]


def test_sizes_of_images_share_one_compilation(launches, monkeypatch):
    for shapes in ([(8, 9), (5, 5)], [(16, 32), (1, 1)], [(1, 7), (16, 1)]):
        call(monkeypatch, FakeGPU(90), shapes=shapes)
    for queries in (32, 1):
        call(monkeypatch, FakeGPU(90), shapes=[(16, 32), (1, 1)], queries=queries)
    forward, backward = launches[::2], launches[1::2]
    for direction in (forward, backward):
        assert len({compiled for _, compiled in direction[:3]}) == len({compiled for _, compiled in direction[3:]}) == 1


def test_tuning_times_once_for_a_structure_and_leaves_clean_gradients(monkeypatch):
    runs = []

    def add_one(kernel, grid, warmup, **arguments):
        runs.append((arguments["ROWS"], arguments["num_warps"]))
        if "grad_value" in arguments:
            arguments["grad_value"] += 1

    monkeypatch.setattr(triton.runtime.JITFunction, "run", add_one)
    monkeypatch.setenv("DDETR_TRITON_AUTOTUNE", "1")
    gpu = FakeGPU(90, seconds=lambda: 0 if runs[-1] == (4, 4) else 1)
    ops_triton._tuned.cache_clear()
    try:
        grad_value, *_ = call(monkeypatch, gpu)
        timed = len(runs)
        assert (grad_value == 1).all() and runs[-1] == (4, 4)
        call(monkeypatch, gpu, shapes=[(16, 32), (1, 1)])
        assert runs[timed:] == [(4, 4), (4, 4)]
        call(monkeypatch, gpu, points=3)
        assert len(runs) == 2 * timed + 2
    finally:
        ops_triton._tuned.cache_clear()


if __name__ == "__main__":
    interpret(sys.argv[1])
