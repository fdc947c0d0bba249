"""A batch on Ray Data, from two cores to a cluster: actors that hold the detector, one shard at a time each.

The same work as `batch_workers`: shards go out, rows come back, and the process that started the batch writes them, so
that workers need no place to write. They do read the input and the model, under the same paths on every machine. When
an actor's process or its machine dies, Ray starts another one and hands it the shards whose rows had not come back;
what did come back is counted once.
"""

import os
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from deformable_detr_refine.messages import one_line

from .input import Shard
from .shard import BatchSettings, ShardResult, detect_shard

_FIELDS = ("number", "content", "images", "failed", "stamp", "error", "seconds")


def run_on_ray(settings: BatchSettings, shards: Iterable[Shard], workers: int | None = None) -> Iterator[ShardResult]:
    """Works on shards; results come as they are finished.

    Args:
        settings: the model, and what is asked of it.
        shards: all are handed to Ray at once.
        workers: actors, with a core each, or an accelerator each; as many as the cluster has if None.

    Raises:
        ValueError: Ray is not installed, or the model cannot be loaded or the input read on a worker.
    """
    ray = import_ray()
    # Its colours would come out as \x1b[33m, as whatever reaches a terminal here.
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    if not ray.is_initialized():
        # RAY_ADDRESS names a cluster; without it one is started on this machine.
        ray.init(log_to_driver=False, include_dashboard=False, **_here())
    # This machine may be a head without an accelerator, so it is the cluster that is asked.
    there = ray.cluster_resources()
    on_cpu = settings.device == "cpu" or (settings.device == "auto" and not there.get("GPU"))
    need = {"num_cpus": 1} if on_cpu else {"num_cpus": 1, "num_gpus": 1}
    workers = workers or max(int(there.get("CPU" if on_cpu else "GPU", 1)), 1)
    rows = [{"shard": pickle.dumps(shard)} for shard in shards]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ShardActor,
        fn_constructor_args=(settings, 1 if on_cpu else None),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        **need,
    )
    for row in data.iter_rows():
        if row["number"] < 0:
            raise ValueError(row["error"])
        yield ShardResult(**{name: row[name] for name in _FIELDS})


class ShardActor:
    """Holds the detector in one process of the cluster.

    Args:
        settings: the model, and what is asked of it.
        threads: cores for one forward pass.
    """

    def __init__(self, settings: BatchSettings, threads: int | None):
        self.settings, self.threads, self.detector = settings, threads, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        try:
            self.detector = self.detector or self.settings.load(self.threads)
            results = [detect_shard(self.detector, self.settings, pickle.loads(shard)) for shard in batch["shard"]]
        except (OSError, ValueError) as error:
            # As a row: Ray would wrap its sentence in pages, and start the actor again and again.
            results = [ShardResult(-1, b"", 0, 0, error=one_line(error))]
        return {name: [getattr(result, name) for result in results] for name in _FIELDS}


def import_ray() -> Any:
    """`ray`, with `ray.data`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError('--engine ray needs Ray: pip install "deformable-detr-refine[ray]".') from error
    return ray


def _here() -> dict[str, Any]:
    return {} if os.environ.get("RAY_ADDRESS") else {"address": "local"}


__all__ = ["ShardActor", "import_ray", "run_on_ray"]
