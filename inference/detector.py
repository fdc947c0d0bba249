"""A detector ready for service: images in, detections out, in order, whatever one of the images is."""

import os
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from deformable_detr_refine.machine import warn_of_slow_numbers
from deformable_detr_refine.messages import one_line
from deformable_detr_refine.modeling.image_io import MAX_PIXELS, load_image
from deformable_detr_refine.modeling.without_torch import MISSING, check_installed

from .batches import batches_of_equal_shape
from .detections import Detections
from .load_detector import load_detector
from .network import Network
from .onnx_detector import load_onnx
from .tiles import Tiling, detect_in_tiles
from .tracking import Tracker
from .video import Video, VideoFrame, read_ahead

if TYPE_CHECKING or not MISSING:
    import torch

BATCH_SIZE = 4
# That wait for others of their shape: about 300 MB of decoded RGB.
LOOK_AHEAD_PIXELS = 100_000_000


@dataclass(frozen=True)
class DetectionFailure:
    """Stands for an image that has no detections, with the reason in one sentence.

    Args:
        error: the sentence.
        image_size: (height, width) where the image could be read.
    """

    error: str
    image_size: tuple[int, int] | None = None

    def to_azure(self) -> dict[str, Any]:
        """An image's place in the response of an endpoint.

        Example:
            >>> DetectionFailure("The given file is empty.").to_azure()
            {'boxes': [], 'error': 'The given file is empty.'}
        """
        return {"boxes": [], "error": self.error}


class Abandoned(Exception):
    """Nobody waits for these detections any more."""


Source = Image.Image | bytes | str | os.PathLike | DetectionFailure
Result = Detections | DetectionFailure


class Detector:
    """Finds objects in images; several threads may ask at the same time.

    Images are batched by their resized shape, so that none is padded and the numbers are those of single images. While
    one thread computes, with all cores, others decode.

    Args:
        model: a model folder, OWNER/NAME on the Hub, or the .onnx file or MLflow folder that `ddetr export` writes.
        device: auto, cpu, cuda, cuda:1, mps, ...
        dtype: of the weights and the pixels, as 'bfloat16'; as saved if None.
        threads: cores for one forward pass, PyTorch's in the whole process; its or ONNX Runtime's own choice if None.
        batch_size: most images at a time.
        max_pixels: width * height above which an image is refused before it is decoded.
        tiling: cut images into tiles, for objects that are small in them; the boxes of an image are those of all tiles.
        revision: branch, tag or commit on the Hub.

    Raises:
        OSError, ValueError: the model cannot be loaded, or the device is not there (see `load_detector`).

    Example:
        detector = Detector("detector/")
        detections, = detector.detect(["photo.jpg"], threshold=0.5)
    """

    def __init__(
        self,
        model: str | os.PathLike,
        device: str = "auto",
        dtype: "torch.dtype | str | None" = None,
        threads: int | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        max_pixels: int = MAX_PIXELS,
        tiling: Tiling | None = None,
        revision: str | None = None,
    ):
        model = inside_mlflow(model)
        self._in_torch = Path(model).suffix != ".onnx"
        if not self._in_torch:
            self.network = load_onnx(Path(model), threads=threads)
        else:
            self.network = _load(model, device, dtype, revision)
        self.threads = threads
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.tiling = tiling
        self._one_at_a_time = threading.Lock()
        self._process: int | None = None
        self._thread: ThreadPoolExecutor

    def detect(
        self,
        images: Sequence[Source],
        threshold: float = 0.0,
        top_k: int | None = None,
        *,
        keep_going: Callable[[], bool] = lambda: True,
    ) -> list[Result]:
        """Detections in each image, in the order given.

        Args:
            images: PIL images, bytes of image files, paths or URLs. A `DetectionFailure` stays in its place.
            threshold: scores above it are kept.
            top_k: most boxes an image; as many as the model's image processor says if None, in tiles of each tile.
            keep_going: is asked before each batch whether anybody still waits.

        Returns:
            `Detections`, boxes xyxy in pixels of the original image, or a `DetectionFailure` for an image that cannot
            be read or is refused.

        Raises:
            Abandoned: `keep_going` said no.
        """
        results: list[Result] = [DetectionFailure("The image was not looked at.")] * len(images)
        for index, _, result in self.detect_each(enumerate(images), threshold, top_k, keep_going=keep_going):
            results[index] = result
        return results

    def detect_each(
        self,
        images: Iterable[tuple[Any, Source]],
        threshold: float = 0.0,
        top_k: int | None = None,
        *,
        keep_going: Callable[[], bool] = lambda: True,
    ) -> Iterator[tuple[Any, Image.Image | None, Result]]:
        """The same over a stream of (key, image), in bounded memory: results come as batches fill, not in order.

        Yields:
            (key, the upright image or None where it cannot be read, result), each key once.
        """
        failed: list[tuple[Any, Image.Image | None, Result]] = []
        readable = self._read(images, failed)
        if self.tiling is not None:
            for key, image in readable:
                yield from _taken(failed)
                yield key, image, self._in_tiles(image, threshold, top_k, self.tiling, keep_going)
            yield from _taken(failed)
            return

        def shape(read: tuple[Any, Image.Image]) -> tuple[int, int]:
            return self.network.processor.resized_shape(read[1].height, read[1].width)

        def pixels(read: tuple[Any, Image.Image]) -> int:
            return read[1].height * read[1].width

        for batch in batches_of_equal_shape(readable, shape, self.batch_size, pixels, LOOK_AHEAD_PIXELS):
            yield from _taken(failed)
            results = self._compute([image for _, image in batch], threshold, top_k, keep_going)
            for (key, image), result in zip(batch, results, strict=True):
                yield key, image, result
        yield from _taken(failed)

    def video(
        self,
        source: Video | str | os.PathLike,
        threshold: float = 0.0,
        top_k: int | None = None,
        *,
        every: int = 1,
        start: float = 0.0,
        end: float | None = None,
        track: bool = False,
    ) -> Generator[tuple[VideoFrame, Detections], None, None]:
        """Detections in a video's frames, in their order; frames are read while the model computes.

        A video that breaks off gives what can be read, and then a warning; an open `Video` has it in `problem`. Of a
        camera or a stream that is faster than the model, frames are passed over.

        Args:
            source: a file, the number of a camera, an address, or an open `Video`, to be closed after this generator.
            threshold: scores above it are kept.
            top_k: most boxes a frame.
            every: only every n-th frame.
            start, end: in seconds.
            track: give the same object the same number (`Detections.ids`) in every frame.

        Yields:
            The frame, and what was found in it.

        Raises:
            ImportError, OSError, ValueError: the video cannot be read, or its frames are too thin for the model.

        Example:
            for frame, found in detector.video("clip.mp4", threshold=0.5):
                print(frame.seconds, found.names)
        """
        if not isinstance(source, Video):
            with Video(os.fspath(source)) as video:
                yield from self.video(video, threshold, top_k, every=every, start=start, end=end, track=track)
                if video.problem:
                    warnings.warn(video.problem, stacklevel=2)
            return
        tracker = Tracker(source.rate / every, threshold) if track else None
        with closing(read_ahead(source.frames(every, start, end), 2 * self.batch_size, source.is_pushed)) as frames:
            while batch := list(islice(frames, self.batch_size)):
                found = self.detect([frame.image for frame in batch], threshold, top_k)
                for frame, result in zip(batch, found, strict=True):
                    if isinstance(result, DetectionFailure):
                        raise ValueError(f"{source.name}, frame {frame.number}: {result.error}")
                    yield frame, tracker.follow(result, frame.seconds) if tracker else result

    def _read(
        self, images: Iterable[tuple[Any, Source]], failed: list[tuple[Any, Image.Image | None, Result]]
    ) -> Iterator[tuple[Any, Image.Image]]:
        for key, source in images:
            if isinstance(source, DetectionFailure):
                failed.append((key, None, source))
                continue
            try:
                image = load_image(source, max_pixels=self.max_pixels)
            except (OSError, ValueError) as error:
                failed.append((key, None, DetectionFailure(one_line(error))))
                continue
            except MemoryError:  # here; a decoder's own is an error of its image
                failed.append((key, None, DetectionFailure("There is not enough memory to read the image.")))
                continue
            try:
                if self.tiling is None:
                    self.network.processor.resized_shape(image.height, image.width)
            except ValueError as error:
                failed.append((key, image, DetectionFailure(one_line(error), (image.height, image.width))))
                continue
            yield key, image

    def _in_tiles(
        self,
        image: Image.Image,
        threshold: float,
        top_k: int | None,
        tiling: Tiling,
        keep_going: Callable[[], bool],
    ) -> Result:
        size = (image.height, image.width)

        def detect(tiles: Sequence[Image.Image]) -> list[dict[str, Any]]:
            return self._run(tiles, threshold, top_k, keep_going)

        try:
            found = detect_in_tiles(image, tiling, detect, self.network.processor.resized_shape, self.batch_size)
        except ValueError as error:
            return DetectionFailure(one_line(error), size)
        return Detections.from_post_process(found, self.network.id2label, size)[:top_k]

    def _compute(
        self, images: Sequence[Image.Image], threshold: float, top_k: int | None, keep_going: Callable[[], bool]
    ) -> list[Result]:
        """One batch; when the model refuses it, its images are tried one by one."""
        try:
            results = self._run(images, threshold, top_k, keep_going)
            return [
                Detections.from_post_process(result, self.network.id2label, (image.height, image.width))
                for result, image in zip(results, images, strict=True)
            ]
        except ValueError as error:
            if len(images) == 1:
                return [DetectionFailure(one_line(error), (images[0].height, images[0].width))]
        return [result for image in images for result in self._compute([image], threshold, top_k, keep_going)]

    def _run(
        self, images: Sequence[Image.Image], threshold: float, top_k: int | None, keep_going: Callable[[], bool]
    ) -> list[dict[str, Any]]:
        with self._one_at_a_time:
            if not keep_going():
                raise Abandoned
            if self._process != os.getpid():
                # Here and not earlier: a process that computed with several threads must not be forked by a server.
                self._process, self._thread = os.getpid(), ThreadPoolExecutor(1)
                if self._in_torch and self.threads is not None:
                    torch.set_num_threads(self.threads)
            if threading.current_thread() is threading.main_thread():
                return self.network.detect(images, threshold, top_k)
            # One thread computes for all others. PyTorch starts helpers for each that computes, which sleep whenever
            # they wait where they are more than the cores: a served detector was a fifth to a quarter slower.
            return self._thread.submit(self.network.detect, images, threshold, top_k).result()


def on_cpu(model: str | os.PathLike, device: str) -> bool:
    """Whether a detector computes on the CPU, as ONNX Runtime does wherever PyTorch would.

    No accelerator is begun with, since a process that has must not be forked.

    Raises:
        ImportError: PyTorch, or what else the model needs, is not installed.
    """
    if Path(model).suffix == ".onnx":
        return True
    check_installed(str(model))
    return device.split(":")[0] == "cpu" or (device == "auto" and not torch.accelerator.is_available())


def inside_mlflow(model: str | os.PathLike) -> str:
    """The model folder in an MLflow model that `ddetr export` wrote; every other model as it is."""
    folder = Path(model, "artifacts", "model")
    return str(folder) if Path(model, "MLmodel").is_file() and folder.is_dir() else os.fspath(model)


def _load(model: str, device: str, dtype: "torch.dtype | str | None", revision: str | None) -> Network:
    check_installed(model)
    if isinstance(dtype, str):
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype) or not named.is_floating_point:
            raise ValueError(f"There is no floating type {dtype}; float32, bfloat16 and float16 are.")
        dtype = named
    detector, processor = load_detector(model, device, revision)
    detector = detector.to(dtype or detector.dtype)
    warn_of_slow_numbers(detector.dtype, detector.device)
    return Network.of(detector, processor)


def _taken(items: list) -> list:
    taken = items.copy()
    items.clear()
    return taken


__all__ = ["Abandoned", "DetectionFailure", "Detector", "inside_mlflow", "on_cpu"]
