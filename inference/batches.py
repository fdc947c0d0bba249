"""Batches of equal shape out of a stream of images, with a bounded look-ahead."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from PIL import Image

# About 300 MB of decoded RGB.
LOOK_AHEAD_PIXELS = 100_000_000


def batches_of_equal_shape(
    images: Iterable[tuple[Any, Image.Image]],
    shape_of: Callable[[int, int], tuple[int, int]],
    batch_size: int,
    look_ahead_pixels: int = LOOK_AHEAD_PIXELS,
) -> Iterator[list[tuple[Any, Image.Image]]]:
    """Collects images until a batch of one resized shape is full, so that no batch is padded (padding changes numbers).

    Images of rare shapes wait; when all that wait exceed the look-ahead, the longest waiting batch leaves unfilled.

    Args:
        images: (key, image) pairs, read one at a time.
        shape_of: (height, width) of an image -> (height, width) after resizing.
        batch_size: images in a full batch.
        look_ahead_pixels: how many pixels may wait.

    Yields:
        Lists of 1 to `batch_size` pairs; every pair once.

    Example:
        >>> images = [(i, Image.new("RGB", size)) for i, size in enumerate([(4, 2), (2, 4), (4, 2)])]
        >>> [[key for key, _ in batch] for batch in batches_of_equal_shape(images, lambda h, w: (h, w), 2)]
        [[0, 2], [1]]
    """
    waiting: dict[tuple[int, int], list] = {}
    pixels = 0
    for key, image in images:
        shape = shape_of(image.height, image.width)
        waiting.setdefault(shape, []).append((key, image))
        pixels += image.width * image.height
        while len(waiting.get(shape, ())) == batch_size or pixels > look_ahead_pixels:
            full = len(waiting.get(shape, ())) == batch_size
            batch = waiting.pop(shape if full else next(iter(waiting)))
            pixels -= sum(image.width * image.height for _, image in batch)
            yield batch
    yield from waiting.values()
