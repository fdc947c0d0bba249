"""Batches of equal shape out of a stream, with a bounded look-ahead."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def batches_of_equal_shape(
    items: Iterable[Item],
    shape_of: Callable[[Item], Hashable],
    batch_size: int,
    size_of: Callable[[Item], int] = lambda item: 0,
    look_ahead: int = 0,
) -> Iterator[list[Item]]:
    """Collects images until a batch of one resized shape is full, so that no batch is padded (padding changes numbers).

    Images of rare shapes wait for the end of the stream; where they have a size, and all that wait exceed the
    look-ahead, the longest waiting batch leaves unfilled.

    Args:
        items: images, or what stands for them; read one at a time.
        shape_of: the shape of an item after resizing.
        batch_size: items in a full batch.
        size_of: how much an item takes while it waits; nothing by default.
        look_ahead: how much may wait, in the unit of `size_of`.

    Yields:
        Lists of 1 to `batch_size` items; every item once.

    Example:
        >>> list(batches_of_equal_shape([0, 1, 2], lambda item: item % 2, 2))
        [[0, 2], [1]]
    """
    waiting: dict[Hashable, list[Item]] = {}
    size = 0
    for item in items:
        shape = shape_of(item)
        waiting.setdefault(shape, []).append(item)
        size += size_of(item)
        while len(waiting.get(shape, ())) == batch_size or size > look_ahead:
            full = len(waiting.get(shape, ())) == batch_size
            batch = waiting.pop(shape if full else next(iter(waiting)))
            size -= sum(map(size_of, batch))
            yield batch
    yield from waiting.values()


__all__ = ["batches_of_equal_shape"]
