"""The loss terms of a run's steps, added up between two lines of its log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class LossTerms:
    """Adds the loss terms up between two lines of the log, on their device."""

    def __init__(self) -> None:
        self._restart(0)

    def _restart(self, step: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.images, self.step, self.start = 0, step, time.perf_counter()

    def begin(self, step: int) -> None:
        """A run begins, or goes on, at this step, unless terms wait for their line already."""
        if not self.sums:
            self._restart(step)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What takes its time within the block is no training."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.start += time.perf_counter() - max(begin, self.start)

    def add(self, terms: dict[str, Tensor], images: int) -> None:
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.images += images

    def drain(self, accelerator: Any, step: int) -> dict[str, float]:
        """Each term per step, which add up to the loss, and images/s over all ranks."""
        steps = max(step - self.step, 1)
        values = accelerator.reduce(torch.stack(list(self.sums.values())), "mean") / steps
        logs = dict(zip(self.sums, values.tolist(), strict=True))
        logs["images_per_second"] = self.images * accelerator.num_processes / (time.perf_counter() - self.start)
        self._restart(step)
        return logs


__all__ = ["LossTerms"]
