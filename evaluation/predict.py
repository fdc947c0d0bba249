"""A detector over a data set: detections beside the truth, image by image, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from PIL import Image

from deformable_detr_refine.data.row_image import row_image
from deformable_detr_refine.data.samplers import EqualShapeBatches
from deformable_detr_refine.inference.network import Network, NoMemory
from deformable_detr_refine.inference.tiles import Tiling, detect_in_tiles
from deformable_detr_refine.machine import usable_cores

from .evaluated_image import EvaluatedImage, evaluated_image

MOST_WORKERS = 8


def predict(
    model: Any,
    processor: Any,
    dataset: Sequence[Mapping[str, Any]],
    batch_size: int = 1,
    progress: Callable[[int], Any] | None = None,
    workers: int | None = None,
    indices: Iterable[int] | None = None,
    unusable: Callable[[str], Any] | None = None,
    tiling: Tiling | None = None,
) -> Iterator[EvaluatedImage]:
    """Finds the best boxes of every image, whatever their score: as many as the processor says, 100 for COCO's metric.

    Batches hold images of one resized shape, so that none is padded and the numbers are those of single images. Images
    come out as batches fill, not in the order of the data set. While the model computes, threads decode and resize the
    next batches; only those and the detections are in memory.

    Args:
        model: `DeformableDetrRefineForObjectDetection`, of float32 or a smaller type, on any device. It is put into
            evaluation mode meanwhile.
        processor: its `DeformableDetrRefineImageProcessor`.
        dataset: rows as `deformable_detr_refine.data` makes them: `image` ({"bytes", "path"}, or anything that
            `load_image` takes), `image_id`, `file_name`, `width`, `height`, `objects`.
        batch_size: most images at a time.
        progress: called with the number of images after every batch, as `tqdm.update` is.
        workers: threads that decode; 0 for none; all but one of the cores, 8 at most, if None.
        indices: which rows, all if None. A process of several takes its share: `range(rank, len(dataset), ranks)`.
        unusable: called with the message for an image that cannot be used, which is then left out; without it that is
            an error.
        tiling: cut images into tiles, of which `batch_size` go through the model together.

    Yields:
        `EvaluatedImage`, each image once.

    Raises:
        OSError, ValueError: an image cannot be read, has another size than its row says, or is too thin to be resized;
            the message names it.
    """
    chosen = list(range(len(dataset)) if indices is None else indices)
    shapes = [_shape(processor, *size) for size in _sizes(dataset, chosen)]
    order = EqualShapeBatches(shapes, 1 if tiling else batch_size)
    batches = ([dataset[chosen[i]] for i in batch] for batch in order)
    threads = max(1, min(MOST_WORKERS, usable_cores() - 1)) if workers is None else workers
    network = Network.of(model, processor)
    was_training = model.training
    model.eval()
    try:
        with ThreadPoolExecutor(max(threads, 1), "decode") as pool:
            # Two images a thread, and at least one batch, are read ahead.
            ahead = 1 if tiling else -(-2 * threads // batch_size)
            for batch in _ahead(pool, lambda rows: _Batch.read(network, rows, tiling), batches, ahead):
                count = len(batch.rows) + len(batch.errors)
                yield from batch.found(network, tiling, batch_size)
                for error in batch.errors:
                    if unusable is None:
                        raise error
                    unusable(str(error))
                if progress is not None:
                    progress(count)
    finally:
        model.train(was_training)


@dataclass
class _Batch:
    """Rows (without their images) of one resized shape, and what the model takes; errors of rows left out."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    whole_rows: list[Mapping[str, Any]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    inputs: Any = None

    @classmethod
    def read(cls, network: Network, rows: Sequence[Mapping[str, Any]], tiling: Tiling | None) -> "_Batch":
        """Decodes images, and prepares them whole, or leaves them to be cut."""
        batch = cls()
        for row in rows:
            try:
                image = row_image(row)
                _check_shapes(network.processor, row, tiling)
            except (OSError, ValueError) as error:
                batch.errors.append(error)
                continue
            batch.images.append(image)
            batch.whole_rows.append(row)
            batch.rows.append({key: value for key, value in row.items() if key != "image"})
        if batch.images and tiling is None:
            with suppress(NoMemory):
                batch.inputs = network.prepare(batch.images)
                batch.images.clear()
        return batch

    def found(self, network: Network, tiling: Tiling | None, batch_size: int) -> Iterator[EvaluatedImage]:
        """Its images with their boxes. Where memory is short they come one by one; `errors` gets what fails even so."""
        try:
            yield from list(self.detect(network) if tiling is None else self.in_tiles(network, tiling, batch_size))
            return
        except NoMemory as error:
            if len(self.rows) == 1:
                self.errors.append(NoMemory(f"{self.rows[0]['file_name']}: {error}"))
                return
        self.inputs = None
        self.images.clear()
        for row in self.whole_rows:
            one = _Batch.read(network, [row], tiling)
            yield from one.found(network, tiling, batch_size)
            self.errors += one.errors

    def detect(self, network: Network) -> Iterator[EvaluatedImage]:
        if not self.rows:
            return
        inputs = network.prepare(self.images) if self.inputs is None else self.inputs
        _, results = network.run(inputs, [(row["height"], row["width"]) for row in self.rows])
        for result, row in zip(results, self.rows, strict=True):
            yield evaluated_image(result, row)

    def in_tiles(self, network: Network, tiling: Tiling, batch_size: int) -> Iterator[EvaluatedImage]:
        for image, row in zip(self.images, self.rows, strict=True):
            found = detect_in_tiles(image, tiling, network.detect, network.processor.resized_shape, batch_size)
            yield evaluated_image(found, row)


def _check_shapes(processor: Any, row: Mapping[str, Any], tiling: Tiling | None) -> None:
    size = (row["height"], row["width"])
    try:
        for shape in {tile.shape for tile in tiling.tiles(*size)} if tiling else {size}:
            processor.resized_shape(*shape)
    except ValueError as error:
        raise ValueError(f"{row['file_name']}: {error}") from error


def _shape(processor: Any, height: int, width: int) -> tuple[int, int]:
    try:
        return processor.resized_shape(height, width)
    except ValueError:  # told when its turn comes
        return 0, 0


def _sizes(dataset: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) of each chosen row, without reading images where the data set has columns."""
    if hasattr(dataset, "column_names"):
        columns = cast("Mapping[str, Sequence[int]]", dataset)
        heights, widths = columns["height"][:], columns["width"][:]
        return [(heights[i], widths[i]) for i in indices]
    return [(row["height"], row["width"]) for row in (dataset[i] for i in indices)]


def _ahead(pool: Executor, function: Callable, items: Iterable, count: int) -> Iterator:
    """`map`, with `count` items started before the one that is taken, in order; without threads if 0."""
    if count == 0:
        yield from map(function, items)
        return
    started: deque = deque()
    try:
        for item in items:
            started.append(pool.submit(function, item))
            if len(started) > count:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
    finally:
        for future in started:
            future.cancel()


__all__ = ["predict"]
