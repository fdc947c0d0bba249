"""Images as the processor takes them, checked, and the batch that it makes of them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.image_utils import SizeDict


def check_pixels(image: Tensor, index: int, do_rescale: bool) -> None:
    """Refuse what holds no pixels and, of arrays other than uint8, values that cannot be grey levels."""
    what = f"images[{index}], of {image.dtype},"
    if not image.numel():
        raise ValueError(f"{what} is empty: its shape is {tuple(image.shape)}.")
    if image.dtype == torch.uint8:
        return
    if image.dtype == torch.bool or image.is_complex():
        raise ValueError(f"{what} holds no grey levels: convert it to uint8, 0..255.")
    low, high = (value.item() for value in image.float().aminmax())
    if not math.isfinite(high - low):
        raise ValueError(f"{what} has values that are not finite.")
    if do_rescale and (low < 0 or high > 255 or (image.is_floating_point() and 0 < high <= 1)):
        raise ValueError(
            f"{what} has values from {low:.4g} to {high:.4g}, where 0..255 is expected: convert it to uint8, or set "
            "do_rescale=False for values that are scaled already."
        )


def padded(images: Sequence[Tensor], size: SizeDict | None = None) -> tuple[Tensor, Tensor]:
    """Images at the upper left of one canvas, zero beyond them: (B, 3, height, width), and its mask, 1 on the image.

    transformers' own `pad` copies each image three times.
    """
    sides = size or SizeDict(*(max(image.shape[axis] for image in images) for axis in (-2, -1)))
    if not (sides.height and sides.width):
        raise ValueError(f"pad_size has 'height' and 'width'; got {size}.")
    canvas = images[0].new_zeros(len(images), images[0].shape[0], sides.height, sides.width)
    mask = torch.zeros(len(images), sides.height, sides.width, dtype=torch.int64, device=canvas.device)
    for index, image in enumerate(images):
        _, height, width = image.shape
        if height > sides.height or width > sides.width:
            raise ValueError(f"An image of {width}x{height} pixels after resizing does not fit into pad_size {size}.")
        canvas[index, :, :height, :width] = image
        mask[index, :height, :width] = 1
    return canvas, mask


__all__ = ["check_pixels", "padded"]
