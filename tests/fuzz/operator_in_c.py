"""Random shapes, types and numbers through the C operator, compared with the specification; `make sanitize` runs it.

    python tests/fuzz/operator_in_c.py --seconds 30                        # the installed library
    python tests/fuzz/operator_in_c.py --library build/sanitized_avx2.so   # another build of it

Prints the seed of the first case that differs; `--seed` starts there.
"""

import argparse
import random
import time
from pathlib import Path

import torch

from deformable_detr_refine.modeling import c_library, ops_c
from deformable_detr_refine.modeling.ops_reference import deformable_attention_reference

STRANGE = [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, -1.0, 1e-40, 1e30, -1e30, 3.4e38, 2.0**31, -(2.0**31), 0.5]


def a_case(seed: int) -> tuple:
    """Value, shapes, locations, weights and the output's gradient."""
    pick = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    levels = [(pick.choice((1, 2, 3, 9)), pick.choice((1, 2, 5, 17))) for _ in range(pick.randint(1, 5))]
    B, H, P = pick.randint(1, 3), pick.randint(1, 9), pick.randint(1, 5)
    Q, C = pick.choice((1, 2, 3, 17, 70)), pick.choice((1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 40, 64, 72))
    dtype = pick.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
    value = torch.randn(B, sum(h * w for h, w in levels), H, C, generator=generator)
    locations = torch.rand(B, Q, H, len(levels), P, 2, generator=generator) * pick.choice((1, 1.3, 30)) - 0.1
    weights = torch.rand(B, Q, H, len(levels), P, generator=generator)
    if pick.random() < 0.5:
        strange = torch.rand(locations.shape, generator=generator) < pick.choice((0.01, 0.3))
        which = torch.randint(len(STRANGE), locations.shape, generator=generator)
        locations = torch.where(strange, torch.tensor(STRANGE)[which], locations)
    if pick.random() < 0.2:
        value[torch.rand(value.shape, generator=generator) < 0.01] = pick.choice((torch.nan, torch.inf))
    if pick.random() < 0.2:
        weights[torch.rand(weights.shape, generator=generator) < 0.05] = 0
    grad_output = torch.randn(B, Q, H * C, generator=generator)
    return value.to(dtype), levels, locations, weights, grad_output.to(dtype)


def check(seed: int) -> None:
    """AssertionError when output or gradients differ, or what is not a number lies elsewhere."""
    value, levels, locations, weights, grad_output = a_case(seed)
    leaves = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    expected = deformable_attention_reference(leaves[0], levels, *leaves[1:])
    grad_value, grad_locations, grad_weights = torch.autograd.grad(expected, leaves, grad_output.double())
    output = ops_c.c_forward(value, levels, locations, weights)
    gradients = ops_c.c_backward(grad_output, value, levels, locations, weights)
    eps = max(torch.finfo(value.dtype).eps, 1e-5)
    # Where fp32 overflows, or where fp64's own rounding decides which cell a location is in, is not counted.
    size = torch.tensor([(w, h) for h, w in levels]).view(1, 1, 1, -1, 1, 2)
    pixels = locations.double() * size - 0.5
    usual = ((pixels.abs() < 1e6) & ((pixels - pixels.round()).abs() > 1e-9)).all(-1)
    bad = ~locations.isfinite().all(-1)
    _compare(
        "output",
        output,
        expected.detach(),
        eps,
        ~(locations.isfinite() & (locations.abs() > 1e37)).flatten(3).any(-1).any(-1, True),
    )
    _compare("grad_value", gradients[0], grad_value, eps, None)
    _compare("grad_locations", gradients[1], grad_locations, 1e-4, usual.unsqueeze(-1))
    _compare("grad_weights", gradients[2], grad_weights, 1e-5, usual)
    assert gradients[1][bad].isnan().all() and gradients[2][bad].isnan().all(), "a bad location has a finite gradient"


def _compare(name: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float, where: torch.Tensor | None) -> None:
    where = torch.ones_like(ours, dtype=torch.bool) if where is None else where.expand_as(ours)
    ours, theirs = ours.double()[where], theirs[where]
    assert torch.equal(ours.isfinite(), theirs.isfinite()), f"{name}: not finite elsewhere"
    ours, theirs = ours[ours.isfinite()], theirs[theirs.isfinite()]
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * 10, msg=lambda text: f"{name}: {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="the compiled C library")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.library:
        library = c_library.open_library(arguments.library.resolve())
        ops_c.library = lambda: (library, None)
    end, seed = time.monotonic() + arguments.seconds, arguments.seed
    while time.monotonic() < end:
        try:
            check(seed)
        except AssertionError as error:
            raise SystemExit(f"seed {seed}: {error}") from error
        seed += 1
    print(f"{seed - arguments.seed} cases agree with the specification")


if __name__ == "__main__":
    main()
