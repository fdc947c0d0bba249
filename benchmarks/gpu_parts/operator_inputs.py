"""Inputs of the operator, as the parts that prove and time it share them."""

import torch
from torch import Tensor

LEVELS = [(100, 167), (50, 84), (25, 42), (13, 21)]
SMALL = [(10, 17), (5, 8), (3, 5), (2, 3)]
# Batch, queries (None: one a token, around itself), heads, channels, points, levels (None: an 800 x 1333 image's).
CASES = {
    "encoder": (1, None, 8, 32, 4, None),
    "encoder, batch 8": (8, None, 8, 32, 4, None),
    "decoder": (1, 300, 8, 32, 4, None),
    "decoder, batch 8": (8, 300, 8, 32, 4, None),
    "odd": (3, 17, 3, 16, 3, [(5, 3), (1, 7), (31, 1)]),
    "one": (1, 1, 1, 1, 1, [(1, 1)]),
    "wide": (2, 301, 4, 64, 4, [(31, 17), (1, 1)]),
    "5 channels": (2, 33, 3, 5, 2, [(13, 7), (3, 3)]),  # which the kernels leave to PyTorch
    "not finite": (2, 301, 8, 32, 4, [(31, 17), (8, 9), (3, 3), (1, 1)]),
}


def inputs(name: str, dtype: torch.dtype, device: str, small: bool = False) -> tuple[Tensor, list, Tensor, Tensor]:
    """Value, levels, locations and weights as leaves; coordinates in fp32. `small`: an image of 80 x 133."""
    batch, queries, heads, channels, points, levels = CASES[name]
    levels = levels or (SMALL if small else LEVELS)
    tokens = sum(h * w for h, w in levels)
    generator = torch.Generator().manual_seed(0)
    shape = batch, queries or tokens, heads, len(levels), points
    value = torch.randn(batch, tokens, heads, channels, generator=generator)
    if queries is None:
        centres = torch.cat(
            [torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w) for h, w in levels]
        )
        sizes = torch.tensor([(w, h) for h, w in levels]).view(1, 1, 1, -1, 1, 2)
        steps = 2 * torch.randn(*shape, 2, generator=generator) / sizes
        locations = centres.flip(-1).view(1, -1, 1, 1, 1, 2) + steps
    else:
        locations = torch.rand(*shape, 2, generator=generator) * 1.2 - 0.1
    weights = torch.rand(shape, generator=generator).flatten(-2).softmax(-1).view(shape)
    if name == "not finite":
        bad = [(torch.nan, 0.5), (0.5, torch.nan), (torch.inf, 0.5), (0.3, -torch.inf), (1e30, 0.5), (-1e9, 1e9)]
        locations[0, : len(bad), 0, 1, 0] = torch.tensor(bad)
    value = value.to(device, dtype)
    return tuple(
        tensor if isinstance(tensor, list) else tensor.to(device).requires_grad_()
        for tensor in (value, levels, locations, weights)
    )  # pyright: ignore[reportReturnType]
