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


def valid_sizes(mask: Tensor) -> Tensor:
    """mask (B, h, w) -> (B, 2): how many columns and rows of the level hold the image."""
    return torch.stack((mask[:, 0].sum(1), mask[:, :, 0].sum(1)), -1).float()


def sine_position_embedding(mask: Tensor, width: int) -> Tensor:
    """mask (B, h, w) -> (B, h * w, width): sines and cosines of a cell's place in the image, y before x.

    A cell's coordinate is its centre divided by the image's extent (padding not counted), times 2 pi.
    Source: mmdet/models/layers/positional_encoding.py with normalize=True, offset=-0.5, eps=1e-6.
    """
    rows, columns = mask.cumsum(1, dtype=torch.float32), mask.cumsum(2, dtype=torch.float32)
    y = (rows - 0.5) / (rows[:, -1:] + 1e-6)
    x = (columns - 0.5) / (columns[:, :, -1:] + 1e-6)
    return torch.cat((_sines(y, width // 2), _sines(x, width // 2)), -1).flatten(1, 2)


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
