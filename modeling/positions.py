"""Where tokens are: valid parts of padded levels, sine embeddings, reference points.

B batch, S tokens, L levels. Masks are True on the image, False on padding. Everything is computed in fp32.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 10000


def level_mask(pixel_mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """pixel_mask (B, height, width), 1 = image -> bool (B, h, w), by the nearest pixel."""
    return F.interpolate(pixel_mask[:, None].float(), size=shape)[:, 0].bool()


def mask_of_sizes(sizes: Sequence[Tensor], canvas: Sequence[int]) -> Tensor:
    """(height, width) of images at the upper left of a canvas, a pair too -> bool (B, height, width), a pixel mask."""
    height, width = torch.stack(list(sizes)).unsqueeze(-1).unbind(1)  # (B, 1) each
    rows, columns = (torch.arange(side, device=height.device) for side in canvas)
    return (rows < height).unsqueeze(2) & (columns < width).unsqueeze(1)


def level_sizes(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """[(h, w)] * L -> (L, 2) as (columns, rows).

    Not torch.tensor(shapes), which torch.export keeps as a constant: the program would then take one image size only.
    """
    sides = [torch.full((1,), side, dtype=torch.float32, device=device) for h, w in shapes for side in (w, h)]
    return torch.cat(sides).view(-1, 2)


def valid_sizes(shape: tuple[int, int], mask: Tensor | None, device: torch.device) -> Tensor:
    """How many columns and rows of a level hold the image, (B or 1, 2); mask as in `sine_position_embedding`."""
    if mask is None:
        return level_sizes([shape], device)
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
        rows = torch.arange(1, h + 1, dtype=torch.float32, device=device).view(1, h, 1)
        columns = torch.arange(1, w + 1, dtype=torch.float32, device=device).view(1, 1, w)
    else:
        rows, columns = mask.cumsum(1, dtype=torch.float32), mask.cumsum(2, dtype=torch.float32)
    y = _sines((rows - 0.5) / (rows[:, -1:] + 1e-6), width // 2)
    x = _sines((columns - 0.5) / (columns[:, :, -1:] + 1e-6), width // 2)
    return torch.cat((y.expand(-1, -1, w, -1), x.expand(-1, h, -1, -1)), -1).flatten(1, 2)


def sine_box_embedding(boxes: Tensor, width: int) -> Tensor:
    """boxes (..., 4) in 0..1 -> (..., 4 * width): `width` sines and cosines of each coordinate, in the boxes' order."""
    return _sines(boxes, width).flatten(-2)


def _sines(x: Tensor, width: int) -> Tensor:
    """x (...) in 0..1 -> (..., width): sin, cos, sin, cos ... of 2 pi x at falling frequencies."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width
    angles = (x * (2 * math.pi)).unsqueeze(-1) / TEMPERATURE**exponents
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


def cell_centres(shape: tuple[int, int], valid_size: Tensor) -> Tensor:
    """valid_size (B, 2) as (columns, rows) -> (B, h * w, 2): centres (x, y), 0..1 over the image; over 1 on padding."""
    h, w = shape
    y = torch.arange(h, dtype=torch.float32, device=valid_size.device) + 0.5
    x = torch.arange(w, dtype=torch.float32, device=valid_size.device) + 0.5
    grid = torch.stack((x.expand(h, w), y.unsqueeze(1).expand(h, w)), -1).flatten(0, 1)
    return grid / valid_size.unsqueeze(1)


def box_proposals(centres: Sequence[Tensor]) -> Tensor:
    """Centres (B, h * w, 2) of each level -> (B, S, 4) cxcywh in 0..1 of the image: 0.05 * 2**level wide and high."""
    return torch.cat([torch.cat((xy, torch.full_like(xy, 0.05 * 2**level)), -1) for level, xy in enumerate(centres)], 1)
