"""Batches of equal shape out of a stream."""

import numpy as np
import pytest

from deformable_detr_refine.inference.batches import batches_of_equal_shape


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("look_ahead", [0, 500, 10**9])
def test_grouping_loses_nothing_mixes_nothing_and_waits_for_little(batch_size, look_ahead):
    random = np.random.default_rng(0)
    sizes = [((10, 20), (20, 10), (15, 15))[i] for i in random.integers(0, 3, 40)]
    read = []

    def images():
        for key, size in enumerate(sizes):
            read.append(key)
            yield key, size

    done = []
    for batch in batches_of_equal_shape(
        images(), lambda image: image[1], batch_size, lambda image: image[1][0] * image[1][1], look_ahead
    ):
        assert 1 <= len(batch) <= batch_size
        assert len({size for _, size in batch}) == 1
        done += [key for key, _ in batch]
        waiting = sum(w * h for w, h in (sizes[key] for key in set(read) - set(done)))
        assert waiting <= look_ahead
    assert sorted(done) == list(range(40))
