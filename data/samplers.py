"""In which order images come: training batches of one orientation, evaluation batches of one shape."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

from deformable_detr_refine.inference.batches import batches_of_equal_shape


class OrientationSampler(Sampler[tuple[int, int]]):
    """Shuffles so that runs of `batch_size` images are all wide or all tall, which wastes least on padding.

    What is left of both at the end makes the last, mixed batches. Yields (epoch, index): with the epoch in hand an
    example's augmentation is a function of seed, epoch and index, whoever loads it and wherever training resumed.

    Source: AspectRatioBatchSampler in mmdet/datasets/samplers/batch_sampler.py.

    Example:
        >>> sampler = OrientationSampler([True, False, True, False], batch_size=2, seed=0)
        >>> sampler.set_epoch(3)
        >>> order = list(sampler)
        >>> sorted(order), {index % 2 for _, index in order[:2]} in ({0}, {1})
        ([(3, 0), (3, 1), (3, 2), (3, 3)], True)
    """

    def __init__(self, is_wide: Sequence[bool], batch_size: int, seed: int) -> None:
        self.is_wide = np.asarray(is_wide, dtype=bool)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.is_wide)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.is_wide)).tolist()
        waiting: dict[bool, list[int]] = {True: [], False: []}
        for index in order:
            bucket = waiting[bool(self.is_wide[index])]
            bucket.append(index)
            if len(bucket) == self.batch_size:
                yield from ((self.epoch, index) for index in bucket)
                bucket.clear()
        yield from ((self.epoch, index) for index in waiting[True] + waiting[False])


class EqualShapeBatches(Sampler[list[int]]):
    """Batches of up to `batch_size` indices whose images have one shape, so that nothing is padded.

    Args:
        shapes: (height, width) of every image after resizing.
        rank, ranks: every `ranks`-th batch from number `rank` on, for one of several processes.

    Example:
        >>> list(EqualShapeBatches([(8, 6), (6, 8), (8, 6), (8, 6)], batch_size=2))
        [[0, 2], [1], [3]]
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        batches = batches_of_equal_shape(range(len(shapes)), shapes.__getitem__, batch_size)
        self.batches = list(islice(batches, rank, None, ranks))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
