"""What a scoring server does with a request's body, apart from the server: it ends in a status and an answer."""

import ctypes
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Semaphore
from typing import Any

from PIL import Image

from deformable_detr_refine.inference.detector import BATCH_SIZE, Abandoned, DetectionFailure, Detector, Result
from deformable_detr_refine.messages import one_line
from deformable_detr_refine.modeling.image_process import decode_apart

from ..limits import Limits
from .schema import Request, RequestError, parse_request, read_images, respond

CLIENT_LEFT = 499  # nginx's number for it
# By this name a request's scope has an event that is set when the client has left.
LEFT_EVENT = "ddetr.client_left"
# Requests at work, and beside them slow images.
MOST_AT_WORK = 4
_MOST_SLOW = 4
logger = logging.getLogger("azmlinfsrv.ddetr")


class Service:
    """A detector behind Azure ML's schema.

    Args:
        detector: is asked by several threads at a time.
        limits: on each request.
        most_at_work: requests whose images are decoded or looked at; others wait.
    """

    def __init__(self, detector: Detector, limits: Limits, most_at_work: int = MOST_AT_WORK):
        self.detector, self.limits = detector, limits
        self._places = _Places(most_at_work)

    def answer(self, body: bytes, keep_going: Callable[[], bool] = lambda: True) -> tuple[int, Any]:
        """The HTTP status and the JSON value for one request.

        Args:
            body: as it came.
            keep_going: says whether the client still waits.

        Returns:
            200 and the list of `respond`, or a status from 400 on and `{"message": one sentence}`.
        """
        try:
            return self._answer(body, keep_going)
        finally:
            _give_memory_back()

    def _answer(self, body: bytes, keep_going: Callable[[], bool]) -> tuple[int, Any]:
        try:
            request = parse_request(body, self.limits)
            images = read_images(request.images, self.limits)
            with self._places:
                return 200, respond(self._detect(images, request, keep_going))
        except RequestError as error:
            return refusal(error)
        except Abandoned:
            return CLIENT_LEFT, {"message": "The client went away."}
        except Exception:  # a bug, or no memory left: the reason is for the log, not for the client
            logger.exception("A request failed.")
            return 500, {"message": "The detector failed on this request; the server's log says why."}

    def _detect(
        self, images: Sequence[bytes | DetectionFailure], request: Request, keep_going: Callable[[], bool]
    ) -> list[Result]:
        results: list[Result] = [DetectionFailure("The image was not looked at.")] * len(images)
        pictures = ((index, self._picture(image)) for index, image in enumerate(images))
        each = self.detector.detect_each(pictures, request.threshold, request.top_k, keep_going=keep_going)
        for index, _, result in each:
            results[index] = result
        return results

    def _picture(self, image: bytes | DetectionFailure) -> Image.Image | DetectionFailure:
        if isinstance(image, DetectionFailure):
            return image
        try:
            return decode_apart(image, "The given file", self.detector.max_pixels, self._places)
        except (OSError, ValueError) as error:
            return DetectionFailure(one_line(error))


_given_back = 0.0


def _give_memory_back() -> None:
    """Hands free memory to the system, once a second at most.

    glibc keeps what a thread's images needed, in pieces that fit no other thread's: 60 requests with photos of up to
    12 megapixels left 1,515 MiB, of which 562 stayed after this, and 632 were the most when it was done each time.
    """
    global _given_back
    trim = _malloc_trim()
    if trim is not None and (now := time.monotonic()) > _given_back + 1:
        _given_back = now
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's function; other systems' C libraries have none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


class _Places:
    """The requests at work, so many at a time. One that waits for a slow image makes its place free meanwhile."""

    def __init__(self, number: int):
        self._free, self._slow = Semaphore(number), Semaphore(_MOST_SLOW)

    def __enter__(self) -> None:
        self._free.acquire()

    def __exit__(self, *_: object) -> None:
        self._free.release()

    def begin(self) -> bool:
        """As `Patience`."""
        if not self._slow.acquire(blocking=False):
            return False
        self._free.release()
        return True

    def end(self) -> None:
        """As `Patience`."""
        self._slow.release()
        self._free.acquire()


def refusal(error: RequestError) -> tuple[int, dict[str, str]]:
    """What a client is told of a request that cannot be answered."""
    return error.status, {"message": one_line(error)}


def load_service(environment: Mapping[str, str] = os.environ) -> Service:
    """A service set up by environment variables, as containers are.

    DDETR_MODEL names the model folder, .onnx file or Hub model; without it, it is looked for in AZUREML_MODEL_DIR,
    where Azure puts the registered model. DDETR_DEVICE, DDETR_DTYPE, DDETR_CORES (its threads), DDETR_BATCH_SIZE and
    DDETR_REVISION are the arguments of `Detector`; DDETR_THREADS says how many requests are at work (4); for limits see
    `Limits.from_environment`.

    Raises:
        OSError, ValueError: there is no model, or a variable has no such value.
    """
    limits = Limits.from_environment(environment)
    model = environment.get("DDETR_MODEL") or find_model(environment.get("AZUREML_MODEL_DIR", ""))
    return Service(
        Detector(
            model,
            environment.get("DDETR_DEVICE") or "auto",
            environment.get("DDETR_DTYPE") or None,
            _whole(environment, "DDETR_CORES"),
            batch_size=_whole(environment, "DDETR_BATCH_SIZE") or BATCH_SIZE,
            max_pixels=limits.pixels,
            revision=environment.get("DDETR_REVISION") or None,
        ),
        limits,
        most_at_work(environment),
    )


def most_at_work(environment: Mapping[str, str] = os.environ) -> int:
    """Requests at work in a process."""
    return _whole(environment, "DDETR_THREADS") or MOST_AT_WORK


def find_model(folder: str) -> Path:
    """The one model in a folder: the folder itself, or somewhere in it, as Azure keeps what was registered.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    if not folder:
        raise FileNotFoundError("No model is named: set AZUREML_MODEL_DIR or DDETR_MODEL.")
    root = Path(folder)
    if root.is_file() or (root / "config.json").is_file():
        return root
    models = sorted({file.parent for file in root.rglob("config.json")} | set(root.rglob("*.onnx")))
    if not models:
        raise FileNotFoundError(f"{folder} holds no model: neither a config.json nor an .onnx file.")
    if len(models) > 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in models[:3])
        raise ValueError(f"{folder} holds {len(models)} models ({names}): name one with DDETR_MODEL.")
    return models[0]


_preloaded: Service | None = None


def preload(service: Service) -> None:
    """Keeps a service for the server's processes that are forked from this one, which share its memory."""
    global _preloaded
    _preloaded = service


def current_service() -> Service:
    """The preloaded service, or one set up by the environment."""
    return _preloaded or load_service()


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} is {text!r}, expected a whole number from 1 on.")
    return int(text)


__all__ = ["Service", "current_service", "load_service", "preload"]
