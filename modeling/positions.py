"""Where tokens are: valid parts of padded levels, sine embeddings, reference points.

B batch, S tokens, L levels. Masks are True on the image, False on padding. Everything is computed in fp32.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .plain_calls import plain_operations

TEMPERATURE = 10000
# Results of each function of sizes: of eight sizes of images and more, for 800x1333 at most 14 MB in all.
_KEPT = 64


def _kept(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keeps what a function of sizes and, last, a device has given for the latest sizes. Nobody writes into it."""
    keep = lru_cache(_KEPT)(lambda stream, *sizes: function(*sizes))

    @wraps(function)
    def kept(*sizes: Any) -> Tensor:
        if not plain_operations():
            return function(*sizes)
        stream = None
        if sizes[-1].type == "cuda":
            if torch.cuda.is_current_stream_capturing():  # a graph would read on in what is no longer kept
                return function(*sizes)
            stream = torch.cuda.current_stream(sizes[-1])  # another would not wait for it to be computed
        with torch.inference_mode(False):  # a training step may be the next to ask
            return keep(stream, *sizes)

    return kept


def level_mask(pixel_mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """pixel_mask (B, height, width), 1 = image -> bool (B, h, w), by the nearest pixel."""
    return F.interpolate(pixel_mask[:, None].float(), size=shape)[:, 0].bool()


def mask_of_sizes(sizes: Sequence[Tensor], canvas: Sequence[int]) -> Tensor:
    """(height, width) of images at the upper left of a canvas, a pair too -> bool (B, height, width), a pixel mask."""
    height, width = torch.stack(list(sizes)).unsqueeze(-1).unbind(1)  # (B, 1) each
    rows, columns = (torch.arange(side, device=height.device) for side in canvas)
    return (rows < height).unsqueeze(2) & (columns < width).unsqueeze(1)


@_kept
def level_sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """((h, w),) * L -> (L, 2) as (columns, rows).

    Not torch.tensor(shapes), which torch.export keeps as a constant: the program would then take one image size only.
    """
    sides = [torch.full((1,), side, dtype=torch.float32, device=device) for h, w in shapes for side in (w, h)]
    return torch.cat(sides).view(-1, 2)


@_kept
def pixel_sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """((h, w),) * L -> (L, 2), a pixel's width and height in 0..1 of its level."""
    return 1 / level_sizes(shapes, device)


def valid_sizes(shape: tuple[int, int], mask: Tensor | None, device: torch.device) -> Tensor:
    """How many columns and rows of a level hold the image, (B or 1, 2); mask as in `sine_position_embedding`."""
    if mask is None:
        return level_sizes((shape,), device)
    return torch.stack((mask[:, 0].sum(1), mask[:, :, 0].sum(1)), -1).float()


def sine_position_embedding(shape: tuple[int, int], mask: Tensor | None, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of each cell's place in the image, y before x -> (B or 1, h * w, width).

    A cell's coordinate is its centre divided by the image's extent, padding not counted, times 2 pi.

    Args:
        mask: (B, h, w), True on the image; None when the image fills the level, which needs sines of h + w numbers
            instead of h * w.

    Source: mmdet/models/layers/positional_encoding.py with normalize=True, offset=-0.5, eps=1e-6.
    """
    h, w = shape
    if mask is None:
        y = _sines_of_side(h, width // 2, device).view(1, h, 1, -1)
        x = _sines_of_side(w, width // 2, device).view(1, 1, w, -1)
    else:
        rows, columns = mask.cumsum(1, dtype=torch.float32), mask.cumsum(2, dtype=torch.float32)
        y = _sines((rows - 0.5) / (rows[:, -1:] + 1e-6), width // 2)
        x = _sines((columns - 0.5) / (columns[:, :, -1:] + 1e-6), width // 2)
    return torch.cat((y.expand(-1, -1, w, -1), x.expand(-1, h, -1, -1)), -1).flatten(1, 2)


@_kept
def _sines_of_side(cells: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of the place of each cell of a level's side, (cells, width)."""
    numbers = torch.arange(1, cells + 1, dtype=torch.float32, device=device)
    return _sines((numbers - 0.5) / (numbers[-1:] + 1e-6), width)


def sine_box_embedding(boxes: Tensor, width: int) -> Tensor:
    """boxes (..., 4) in 0..1 -> (..., 4 * width): `width` sines and cosines of each coordinate, in the boxes' order."""
    return _sines(boxes, width).flatten(-2)


def _sines(x: Tensor, width: int) -> Tensor:
    """x (...) in 0..1 -> (..., width): sin, cos, sin, cos ... of 2 pi x at falling frequencies."""
    angles = (x * (2 * math.pi)).unsqueeze(-1) / _wave_lengths(width, x.device)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


@_kept
def _wave_lengths(width: int, device: torch.device) -> Tensor:
    return TEMPERATURE ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)


def cell_centres(shape: tuple[int, int], valid_size: Tensor) -> Tensor:
    """valid_size (B, 2) as (columns, rows) -> (B, h * w, 2): centres (x, y), 0..1 over the image; over 1 on padding."""
    return _centres_in_cells(shape, valid_size.device) / valid_size.unsqueeze(1)


@_kept
def _centres_in_cells(shape: tuple[int, int], device: torch.device) -> Tensor:
    h, w = shape
    y = torch.arange(h, dtype=torch.float32, device=device) + 0.5
    x = torch.arange(w, dtype=torch.float32, device=device) + 0.5
    return torch.stack((x.expand(h, w), y.unsqueeze(1).expand(h, w)), -1).flatten(0, 1)


def box_proposals(centres: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Centres (B, S, 2) -> (B, S, 4) cxcywh in 0..1 of the image: 0.05 * 2**level wide and high."""
    sides = _proposal_sides(len(shapes), centres.device)
    sizes = torch.cat([side.expand(h * w, 2) for side, (h, w) in zip(sides, shapes, strict=True)])
    return torch.cat((centres, sizes.expand_as(centres)), -1)


@_kept
def _proposal_sides(levels: int, device: torch.device) -> Tensor:
    return torch.cat([torch.full((1,), 0.05 * 2**level, dtype=torch.float32, device=device) for level in range(levels)])
