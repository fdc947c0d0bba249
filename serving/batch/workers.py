"""The default engine of a batch: one machine, nothing more to install.

On a CPU every worker is a process with one thread and a detector of its own: images do not wait for each other, and
nothing is shared that many cores would queue for. On an accelerator the workers are threads around one detector: one
computes while the others decode.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import connection

from deformable_detr_refine.inference.detector import Detector, on_cpu
from deformable_detr_refine.machine import usable_cores

from .input import Shard
from .shard import BatchSettings, ShardResult, detect_shard

# As Azure's batch deployments retry.
RETRIES = 3
_ON_ACCELERATOR = 4

_detector: Detector | None = None


def run_here(settings: BatchSettings, shards: Iterable[Shard], workers: int | None = None) -> Iterator[ShardResult]:
    """Works on shards; results come as they are finished.

    Args:
        settings: the model, and what is asked of it.
        shards: are taken one by one.
        workers: processes on a CPU (all cores if None; 1 works in this process, with all cores for every image), or
            threads around an accelerator.

    Raises:
        OSError, ValueError: the model cannot be loaded.
        ChildProcessError: worker processes died again and again.
    """
    in_processes = on_cpu(settings.model, settings.device)
    workers = workers or (usable_cores() if in_processes else _ON_ACCELERATOR)
    shards = iter(shards)
    if in_processes and workers > 1:
        yield from _in_processes(settings, shards, workers)
        return
    detector = settings.load()
    with ThreadPoolExecutor(workers, "batch") as pool:
        for _, future in _finished(pool, lambda shard: detect_shard(detector, settings, shard), shards, workers):
            yield future.result()


def _in_processes(settings: BatchSettings, shards: Iterator[Shard], workers: int) -> Iterator[ShardResult]:
    """Starts new processes when one dies, and gives them the shards that it took along."""
    lost: list[Shard] = []
    deaths: Counter[int] = Counter()
    while True:
        # Not forked: a fork of a process that has computed with threads hangs.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, initializer=_begin_worker) as pool:
            todo, lost = chain(lost, shards), []
            for shard, future in _finished(pool, _Work(settings), todo, 2 * workers):
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(shard)
                else:
                    yield future.result()
        if not lost:
            return
        deaths.update(shard.number for shard in lost)
        worst = max(lost, key=lambda shard: deaths[shard.number])
        if deaths[worst.number] > RETRIES:
            raise ChildProcessError(
                f"A worker process died {deaths[worst.number]} times about images {worst.first} to "
                f"{worst.first + len(worst) - 1} of the input; if memory was short, try fewer workers."
            )


def _finished(
    pool: Executor, work: Callable[[Shard], ShardResult], shards: Iterator[Shard], most: int
) -> Iterator[tuple[Shard, Future]]:
    """Keeps up to `most` shards under way, and gives each with its future when it is done."""
    under_way: dict[Future, Shard] = {}
    try:
        broken = False
        while True:
            for shard in () if broken else islice(shards, most - len(under_way)):
                under_way[_submit(pool, work, shard)] = shard
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                broken |= isinstance(future.exception(), BrokenProcessPool)
                yield under_way.pop(future), future
    finally:
        for future in under_way:
            future.cancel()


def _submit(pool: Executor, work: Callable[[Shard], ShardResult], shard: Shard) -> Future:
    """A pool that has just broken refuses; its shard is lost like those that it held."""
    try:
        return pool.submit(work, shard)
    except BrokenProcessPool as error:
        future: Future = Future()
        future.set_exception(error)
        return future


@dataclass(frozen=True)
class _Work:
    """What a process does with a shard; the model is loaded with the first one, so that its errors come back whole."""

    settings: BatchSettings

    def __call__(self, shard: Shard) -> ShardResult:
        global _detector
        if _detector is None:
            _detector = self.settings.load(threads=1)
        return detect_shard(_detector, self.settings, shard)


def _begin_worker() -> None:
    # Ctrl-C ends it at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child process"
    threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(parent: int) -> None:
    """A killed parent closes no queue: without this its workers would wait for ever."""
    connection.wait([parent])
    os._exit(1)


__all__ = ["RETRIES", "run_here"]
