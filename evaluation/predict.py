"""A detector over a data set: detections beside the truth, image by image, in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image

from deformable_detr_refine import load_image
from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage, evaluated_image
from deformable_detr_refine.evaluation.grouping import batches_of_equal_shape

TOP_K = 100
# Decoded images that wait for the model: 40 MB, or one batch of each shape if that is more.
LOOK_AHEAD_PIXELS = 13_000_000


def predict(
    model: Any,
    processor: Any,
    dataset: Sequence[Mapping[str, Any]],
    batch_size: int = 1,
    progress: Callable[[int], Any] | None = None,
    workers: int | None = None,
    indices: Iterable[int] | None = None,
    unusable: Callable[[str], Any] | None = None,
) -> Iterator[EvaluatedImage]:
    """Finds the best 100 boxes of every image, whatever their score, as COCO's evaluation wants them.

    Batches hold images of one resized shape, so that none is padded and the numbers are those of single images. Images
    come out as their batches fill, not in the order of the data set. While the model computes, threads decode the next
    images; only those and the detections are in memory.

    Args:
        model: `DeformableDetrRefineForObjectDetection`, of float32 or a smaller type, on any device. It is put into
            evaluation mode meanwhile.
        processor: its `DeformableDetrRefineImageProcessor`.
        dataset: rows as `deformable_detr_refine.data` makes them: `image` ({"bytes", "path"}, or anything that
            `load_image` takes), `image_id`, `file_name`, `width`, `height`, `objects`.
        batch_size: most images at a time.
        progress: called with the number of images after every batch, as `tqdm.update` is.
        workers: threads that decode; all but one of the cores, 8 at most, if None.
        indices: which rows, all if None. A process of several takes its share: `range(rank, len(dataset), ranks)`.
        unusable: called with the message for an image that cannot be read, which is then left out; without it that is
            an error.

    Yields:
        `EvaluatedImage`, each image once.

    Raises:
        OSError, ValueError: an image cannot be read, or has another size than its row says; the message names it.
    """
    rows = (dataset[i] for i in (range(len(dataset)) if indices is None else indices))
    threads = max(1, min(8, _cores() - 1)) if workers is None else workers
    was_training = model.training
    model.eval()
    try:
        with ThreadPoolExecutor(max(threads, 1), "decode") as pool:
            images = _ahead(pool, _decode, rows, 2 * threads + batch_size) if threads else map(_decode, rows)
            usable = _usable(images, processor, unusable, progress)
            for batch in batches_of_equal_shape(usable, processor.resized_shape, batch_size, LOOK_AHEAD_PIXELS):
                yield from predict_batch(model, processor, batch)
                if progress is not None:
                    progress(len(batch))
    finally:
        model.train(was_training)


def predict_batch(
    model: Any, processor: Any, batch: Sequence[tuple[Mapping[str, Any], Image.Image]]
) -> list[EvaluatedImage]:
    """One batch of (row, upright image) pairs, of one resized shape."""
    inputs = processor(images=[image for _, image in batch], return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs.to(model.device, model.dtype))
    sizes = [(image.height, image.width) for _, image in batch]
    results = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes, top_k=TOP_K)
    return [evaluated_image(result, row) for result, (row, _) in zip(results, batch, strict=True)]


def row_image(row: Mapping[str, Any]) -> Image.Image:
    """The image of a row, upright and RGB.

    Raises:
        OSError, ValueError: it cannot be read, or its size is not the row's; the message names the file.

    Example:
        >>> row_image({"image": Image.new("L", (64, 32)), "file_name": "a.png", "width": 64, "height": 32}).size
        (64, 32)
    """
    source = row["image"]
    if isinstance(source, Mapping):
        source = source["bytes"] or source["path"]
    try:
        image = load_image(source)
    except (OSError, ValueError, TypeError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{row['file_name']}: {error}") from error
    if image.size != (row["width"], row["height"]):
        raise ValueError(
            f"{row['file_name']} is {image.width}x{image.height} pixels, but the data set says "
            f"{row['width']}x{row['height']}, so its boxes may be those of another image."
        )
    return image


def _decode(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], Image.Image | Exception]:
    try:
        image = row_image(row)
    except (OSError, ValueError) as error:
        image = error
    # The file's bytes need not wait with the pixels.
    return {key: value for key, value in row.items() if key != "image"}, image


def _usable(
    images: Iterable[tuple[Mapping[str, Any], Image.Image | Exception]],
    processor: Any,
    unusable: Callable[[str], Any] | None,
    progress: Callable[[int], Any] | None,
) -> Iterator[tuple[Mapping[str, Any], Image.Image]]:
    """The images that were decoded and can be resized."""
    for row, image in images:
        if isinstance(image, Image.Image):
            try:
                processor.resized_shape(image.height, image.width)
            except ValueError as error:
                image = ValueError(f"{row['file_name']}: {error}")
        if isinstance(image, Exception):
            if unusable is None:
                raise image
            unusable(str(image))
            if progress is not None:
                progress(1)
            continue
        yield row, image


def _ahead(pool: Executor, function: Callable, items: Iterable, count: int) -> Iterator:
    """`map`, with at most `count` items started before the one that is taken, in order."""
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["predict", "predict_batch", "row_image"]
