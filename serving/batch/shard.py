"""The work on one shard of a batch, the same in a thread, a process and an actor of Ray."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from deformable_detr_refine.inference.detector import DetectionFailure, Detector
from deformable_detr_refine.inference.tiles import Tiling
from deformable_detr_refine.modeling.image_io import as_text

from .input import Shard
from .rows import BatchRow, encode


@dataclass(frozen=True)
class BatchSettings:
    """What a batch asks of every worker.

    Args:
        model: a model folder, a Hub name or an .onnx file.
        format: jsonl, parquet or predictions (see `batch_rows`).
        threshold: scores above it are kept.
        top_k: most boxes an image; the model's own number if None.
        batch_size: most images of one shape at a time.
        device: auto, cpu, cuda, ...
        revision: of a model of the Hub.
        tiling: cut images into tiles.
    """

    model: str
    format: str
    threshold: float = 0.0
    top_k: int | None = None
    batch_size: int = 1
    device: str = "auto"
    revision: str | None = None
    tiling: Tiling | None = None

    def load(self, threads: int | None = None) -> Detector:
        """The detector; `threads` cores for one forward pass."""
        return Detector(
            self.model,
            self.device,
            threads=threads,
            batch_size=self.batch_size,
            tiling=self.tiling,
            revision=self.revision,
        )


@dataclass(frozen=True)
class ShardResult:
    """A shard's rows, encoded.

    Args:
        number: the shard's.
        content: a piece of the output file, in the order of the input.
        images: how many.
        failed: how many of them have an error instead of boxes.
        stamp: of the images' files as they were when they were read (see `stamp_of`).
        error: the first one, with the image's name.
        seconds: that it took, without the model's loading.
    """

    number: int
    content: bytes
    images: int
    failed: int
    stamp: str = ""
    error: str | None = None
    seconds: float = 0.0


def detect_shard(detector: Detector, settings: BatchSettings, shard: Shard) -> ShardResult:
    """Detects in every image of a shard; an image that fails gives a row with its error."""
    began = time.monotonic()
    looked_at, stamp = {}, shard.stamp()  # before they are read: what changes then is noticed

    def sources():
        for image in shard.images():
            looked_at[image.index] = image
            yield image.index, image.source

    rows = []
    for index, _, result in detector.detect_each(sources(), settings.threshold, settings.top_k):
        image = looked_at.pop(index)
        if isinstance(result, DetectionFailure) and isinstance(image.source, Path):
            # The row names the image; where it lay on this machine is nobody's concern.
            result = replace(result, error=result.error.replace(as_text(str(image.source)), as_text(image.name)))
        rows.append(BatchRow(index, as_text(image.name), as_text(image.file), image.row, result))
    rows.sort(key=lambda row: row.index)
    if len(rows) != len(shard):
        raise ValueError(f"Shard {shard.number} has {len(rows)} images, expected {len(shard)}: the input has changed.")
    failures = [row for row in rows if isinstance(row.result, DetectionFailure)]
    error = None
    if failures:
        name, error = failures[0].name, failures[0].result.error
        error = error if name in error else f"{name}: {error}"
    content = encode(rows, settings.format)
    return ShardResult(shard.number, content, len(rows), len(failures), stamp, error, time.monotonic() - began)


__all__ = ["BatchSettings", "ShardResult", "detect_shard"]
