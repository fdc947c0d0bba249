"""Detection in many images: any input, any number of workers, and a kill at any moment loses and doubles nothing."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deformable_detr_refine.data.formats.image_files import not_images
from deformable_detr_refine.files import sha256_of
from deformable_detr_refine.hub_names import is_hub_name
from deformable_detr_refine.inference.detector import inside_mlflow
from deformable_detr_refine.inference.tiles import Tiling
from deformable_detr_refine.messages import counted, near

from .input import FileInput, Shard, TableInput
from .job import Job
from .rows import format_of
from .shard import BatchSettings, ShardResult
from .workers import run_here

# Settings, shards that are not finished, workers (None: as many as there is room for) -> results in any order.
Engine = Callable[[BatchSettings, Iterable[Shard], int | None], Iterator[ShardResult]]
_MODEL_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")


class TooManyErrors(ValueError):
    """More images failed than the error threshold allows."""


@dataclass(frozen=True)
class BatchSummary:
    """How a batch ended.

    Args:
        images: in the input and in the output.
        failed: of them, rows with an error.
        resumed: of them, finished in an earlier run.
        again: of them, finished in an earlier run and computed again: the part was damaged, or an image has changed.
        seconds: of this run, from the first image to the last: neither start-up nor the model's loading.
        error: the first error of this run.
        left_out: what the input's folder holds besides images.
    """

    images: int
    failed: int
    resumed: int
    again: int
    seconds: float
    error: str | None
    left_out: str | None = None


def run_batch(
    model: str,
    source: str,
    output: Path,
    *,
    form: str | None = None,
    column: str | None = None,
    threshold: float = 0.0,
    top_k: int | None = None,
    batch_size: int = 1,
    workers: int | None = None,
    device: str = "auto",
    tiling: Tiling | None = None,
    revision: str | None = None,
    error_threshold: int = -1,
    force: bool = False,
    engine: Engine = run_here,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> BatchSummary:
    """Detects in all images of an input and writes a row for each, in the input's order.

    The work so far is in OUTPUT.parts. The same call goes on with it after a stop, of whatever kind; a shard of images
    (eight by default) that was under way is computed again.

    Args:
        model: a model folder, a Hub name, an .onnx file or an MLflow folder.
        source: a folder, file, glob pattern or MLTable (see `open_input`).
        output: the file to write.
        form: jsonl, parquet or predictions; by the output's suffix if None (see `batch_rows`).
        column: of tables, with the images.
        threshold: scores above it are kept.
        top_k: most boxes an image; the model's own number if None.
        batch_size: most images of one shape at a time.
        workers: as the engine counts them.
        device: auto, cpu, cuda, ...
        tiling: cut images into tiles.
        revision: of a model of the Hub.
        error_threshold: the batch stops when more images than this have failed; -1 lets all of them fail (Azure).
        force: begin anew and replace the output.
        engine: `run_here`, or `ray_engine.run_on_ray`.
        progress: is called with (finished images, all images) after each shard.

    Raises:
        OSError, ValueError: input, output or model cannot be used, of image files none would be cut, or a column is
            named of them.
        TooManyErrors: see `error_threshold`.
    """
    form, model = format_of(output, form), inside_mlflow(model)
    settings = BatchSettings(model, form, threshold, top_k, batch_size, device, revision, tiling)
    identity = {"model": model_identity(model, revision), "format": form, "threshold": threshold, "top_k": top_k}
    identity["tiling"] = str(tiling) if tiling else None
    first_error, began, ended = None, math.inf, 0.0

    def check(images: FileInput | TableInput) -> None:
        if column is not None and isinstance(images, FileInput):
            raise ValueError(f"A column is of tables, and {source} gives image files: leave out --column {column}.")
        if tiling is not None and isinstance(images, FileInput):
            tiling.check_images(images.folder / name for name in images.names)

    with Job(output) as job:
        images, size = job.start(source, column, identity, batch_size, force, check)
        resumed = done = sum(len(shard) for shard in images.shards(size) if shard.number in job.finished)
        _check_errors(job, error_threshold, first_error)
        progress(done, len(images))
        todo = (shard for shard in images.shards(size) if shard.number not in job.finished)
        if done < len(images):
            for result in engine(settings, todo, workers):
                ended = time.monotonic()
                began = min(began, ended - result.seconds)
                if job.put(result):
                    done += result.images
                    first_error = first_error or result.error
                    progress(done, len(images))
                    _check_errors(job, error_threshold, first_error)
        failed, again = job.failed, job.again
        job.finish(sum(1 for _ in images.shards(size)), form)
    left_out = not_images(images.others) if images.others else None
    return BatchSummary(len(images), failed, resumed, again, max(ended - began, 0.0), first_error, left_out)


def model_identity(model: str, revision: str | None) -> str:
    """By which another model is noticed: a digest of its files, or the commit on the Hub.

    Raises:
        FileNotFoundError: it can be neither, or is a folder without a model.
    """
    path = Path(model)
    if not path.exists():
        if not is_hub_name(model):
            raise FileNotFoundError(f"There is no model {model}{near(model)}")
        return f"{model}@{_commit(model, revision)}"
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{model} is no model folder (no config.json in it): `ddetr convert` makes one.")
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(found for glob in _MODEL_FILES for found in path.glob(glob)):
        digest.update(f"{file.name}\n{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _commit(model: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return HfApi().model_info(model, revision=revision).sha or str(revision)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError):
        # Loading the model says it better, or finds it in the cache.
        return str(revision)


def _check_errors(job: Job, error_threshold: int, first: str | None) -> None:
    failed = job.failed
    if 0 <= error_threshold < failed:
        example = f" The first of this run: {first}" if first else ""
        raise TooManyErrors(
            f"{counted(failed, 'image')} failed, and the error threshold is {error_threshold}. What is "
            f"finished is kept in {job.folder}: a higher threshold goes on from there.{example}"
        )


__all__ = ["BatchSummary", "Engine", "TooManyErrors", "model_identity", "run_batch"]
