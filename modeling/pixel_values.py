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


def padded(
    images: Sequence[Tensor], size: SizeDict | None = None, mean_and_std: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Images at the upper left of one canvas, zero beyond them: (B, C, height, width), and its mask, True on the image.

    With `mean_and_std`, (2, C) or (2,), an image is normalised by them on its way.

    The canvas lies channels last, as the backbone wants it, and is written row by row: for an image of 800x1067 a tenth
    of the time of normalising (C, height, width), copying that onto a canvas and turning the canvas.
    """
    sides = size or SizeDict(*(max(image.shape[axis] for image in images) for axis in (-2, -1)))
    if not (sides.height and sides.width):
        raise ValueError(f"pad_size has 'height' and 'width'; got {size}.")
    channels, dtype = images[0].shape[0], images[0].dtype if mean_and_std is None else torch.float32
    canvas = torch.zeros(len(images), sides.height, sides.width * channels, dtype=dtype, device=images[0].device)
    mask = torch.zeros(len(images), sides.height, sides.width, dtype=torch.bool, device=canvas.device)
    for index, image in enumerate(images):
        _, height, width = image.shape
        if height > sides.height or width > sides.width:
            raise ValueError(f"An image of {width}x{height} pixels after resizing does not fit into pad_size {size}.")
        rows = canvas[index, :height, : width * channels]
        rows.copy_(image.permute(1, 2, 0).reshape(height, -1))
        if mean_and_std is not None:
            mean, std = (values.expand(channels).repeat(width) for values in mean_and_std)
            rows.sub_(mean).div_(std)
        mask[index, :height, :width] = True
    return canvas.unflatten(2, (sides.width, channels)).permute(0, 3, 1, 2), mask


__all__ = ["check_pixels", "padded"]
