"""Decoding in a process of its own, which is ended when an image costs more than its pixels explain.

A process is started at the first image and serves many; threads that decode at the same time have one each.
"""

import atexit
import contextlib
import io
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any, Protocol

from PIL import Image

from . import image_decoding
from .image_decoding import decode, open_image, refuse_bomb, size_in_head, upright_size

# For what waits without computing, and for systems without the other clock. Generous, as the machine may be busy.
WALL_SECONDS = 120.0
GREETING_SECONDS = 30.0
MOST_IDLE = 8  # as many as an evaluation reads images with
# After so many, an image is slow: photos take less.
PATIENCE_SECONDS = 1.0
TICK_SECONDS = 0.1  # how often it is looked


class Patience(Protocol):
    """What waits for images and may let others pass while a slow one is decoded, which then has less of the machine."""

    def begin(self) -> bool:
        """Says whether it lets others pass; in another thread than the one that waits."""
        ...

    def end(self) -> None:
        """The slow image that others were let pass is there, or has failed."""
        ...


def decode_apart(content: bytes, name: str, max_pixels: int, patience: Patience | None = None) -> Image.Image:
    """The pixels of an image file, upright and RGB.

    Where there is no Python to start, as in a program that embeds it, the file is decoded here.

    Args:
        content: the file's.
        name: for errors.
        max_pixels: width * height above which it is refused.
        patience: is told when this image takes long.

    Raises:
        OSError: no process can be started, or there is no memory for the pixels.
        ValueError: it is no image, damaged, above the limit, or takes more time or memory than its pixels explain.
    """
    request = {"length": len(content), "name": name, "max_pixels": max_pixels}
    if (answer := _ask(request, content, name, patience)) is not None:
        assert answer[1] is not None
        return answer[1]
    refuse_bomb(content, name)
    with open_image(io.BytesIO(content), name) as image:
        return decode(image, name, max_pixels, in_place=True)


def size_apart(source: bytes | str, name: str) -> tuple[int, int]:
    """Width and height of the upright image in a file, given by its content or its path, from its header.

    Raises:
        OSError: no process can be started.
        ValueError: it is no image, a damaged one, or takes more time or memory than a header should.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        if (size := size_in_head(file)) is not None:
            return size
    content = source if isinstance(source, bytes) else b""
    path = None if isinstance(source, bytes) else os.path.abspath(source)
    if (answer := _ask({"length": len(content), "name": name, "path": path}, content, name)) is not None:
        return answer[0]
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        return upright_size(open_image(file, name))


def _ask(
    request: dict[str, Any], content: bytes, name: str, patience: Patience | None = None
) -> tuple[tuple[int, int], Image.Image | None] | None:
    """Size and image, which is None when no pixels are asked for; nothing where there is no Python to start.

    Raises:
        OSError: no process can be started.
        ValueError: what the process says of the image, or that it had to be ended.
    """
    try:
        decoder = _take()
    except _NoPython:
        return None
    except OSError as error:
        raise OSError(f"{name} is not decoded, since no process can be started ({error}): try again.") from error
    try:
        answer = decoder.ask(content, request, patience)
    except (EOFError, OSError) as error:
        late = decoder.end() == -getattr(signal, "SIGPROF", 0) or decoder.late
        why = "takes longer to decode than a picture of its size should" if late else "makes its decoder crash"
        raise ValueError(f"{name} {why}: save it anew.") from error
    except BaseException as error:
        decoder.end()  # in the middle of an answer, as after Ctrl-C
        if isinstance(error, MemoryError):
            raise OSError(f"{name} is not decoded, since there is no memory for its pixels: try again.") from error
        raise
    _give_back(decoder)
    if isinstance(answer, str):
        raise ValueError(answer)
    return answer


class _NoPython(OSError):
    """What this program was started by is no Python, which is found out once."""


class _Decoder:
    """A process that runs `image_decoding.py`.

    Raises:
        OSError: it cannot be started.
    """

    no_python = False
    has_answered = False  # any of them

    def __init__(self):
        if _Decoder.no_python or not sys.executable or getattr(sys, "frozen", False):
            raise _NoPython
        # As modules are found here, without the seconds that some packages add to Python's start.
        command = [sys.executable, "-S", "-P", image_decoding.__file__]
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        # Memory for photos is kept from one to the next: 3 ms less of 5 for 640x480. In large pages, a photo of 12
        # megapixels takes 49 ms of computing instead of 72.
        kept = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**25)}
        kept["GLIBC_TUNABLES"] = ":".join(filter(None, [os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"]))
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self.memory = _memory()
        shared = [] if self.memory is None else [self.memory.fileno()]
        try:
            self.process = subprocess.Popen(
                [*command, *map(str, shared)],
                stdin=pipe,
                stdout=pipe,
                stderr=nowhere,
                env=os.environ | paths | kept,
                pass_fds=shared,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError:
            if self.memory is not None:
                self.memory.close()
            raise
        self.late = self.passed = False
        self.patience: Patience | None = None
        try:
            self.ask(b"", {"length": 0, "name": "", "path": None}, seconds=GREETING_SECONDS)
        except (EOFError, OSError, ValueError) as error:
            self.end()
            if self.late or _Decoder.has_answered:
                raise OSError("it gives no answer") from error
            _Decoder.no_python = True
            raise _NoPython from error
        _Decoder.has_answered = True

    def ask(
        self,
        content: bytes,
        request: dict[str, Any],
        patience: Patience | None = None,
        seconds: float = WALL_SECONDS,
    ) -> tuple[tuple[int, int], Image.Image | None] | str:
        """Size and image, which is None where no pixels were asked for; or what is wrong with it.

        Raises:
            EOFError, OSError: the process has ended.
        """
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None
        now = time.monotonic()
        self.end_at, self.slow_at, self.patience = now + seconds, now + PATIENCE_SECONDS, patience
        _watched(self)
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.write(content)
            requests.flush()
            line = answers.readline()
            answer = json.loads(line) if line.endswith(b"\n") else {}
            pixels = answers.read(answer.get("length", 0))
        finally:
            with _lock:
                _at_work.discard(self)
            if patience is not None and self.passed:
                patience.end()
        if not answer or len(pixels) < answer["length"]:
            raise EOFError
        if "error" in answer:
            return answer["error"]
        width, height = answer["size"]
        image = Image.frombytes("RGB", (width, height), pixels) if pixels else None
        if length := answer.get("memory"):
            image = self._image_in_memory(width, height, length)
        return (width, height), image

    def _image_in_memory(self, width: int, height: int, length: int) -> Image.Image:
        assert self.memory is not None
        with (
            mmap.mmap(self.memory.fileno(), length, access=mmap.ACCESS_READ) as ppm,
            memoryview(ppm) as whole,
            whole[length - 3 * width * height :] as pixels,
        ):
            image = Image.frombytes("RGB", (width, height), pixels)  # pyright: ignore[reportArgumentType]
        self.memory.truncate(0)
        return image

    def look(self, now: float) -> None:
        """Ends the process when its time has come."""
        if now > self.end_at:
            self.late = True
            self.process.kill()
        elif self.patience is not None and now > self.slow_at and not self.passed and self.patience.begin():
            self.passed = True
            with contextlib.suppress(AttributeError, OSError):
                os.setpriority(os.PRIO_PROCESS, self.process.pid, 10)

    def close(self) -> None:
        for file in (self.process.stdin, self.process.stdout, self.memory):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def end(self) -> int:
        """Ends the process; gives its exit status."""
        self.close()
        if self.process.returncode is None:
            self.process.kill()
        return self.process.wait()

    def forget(self) -> None:
        """Leaves the process to the one that this one was forked from."""
        self.close()
        self.process.returncode = 0  # else it would be warned of


_idle: list[_Decoder] = []
_at_work: set[_Decoder] = set()
_lock = threading.Lock()
_working = threading.Event()
_watcher: threading.Thread | None = None


def _watched(decoder: _Decoder) -> None:
    """Puts it under the eyes of a thread, one for all: to start one for each image would take longer than a photo."""
    global _watcher
    with _lock:
        _at_work.add(decoder)
        _working.set()
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="image decoders", daemon=True)
            _watcher.start()


def _watch() -> None:
    while _working.wait():
        time.sleep(TICK_SECONDS)
        with _lock:
            for decoder in _at_work:
                decoder.look(time.monotonic())
            if not _at_work:
                _working.clear()


def _memory() -> IO[bytes] | None:
    """Memory that can be had in common with another process, where the system has such."""
    try:
        memory = os.fdopen(os.memfd_create("pixels"), "r+b", buffering=0)
    except (AttributeError, OSError):
        return None
    if memory.fileno() > 2:
        return memory
    memory.close()  # where this program has a standard stream closed, the child's own would take its place
    return None


def _take() -> _Decoder:
    with _lock:
        while _idle:
            decoder = _idle.pop()
            if decoder.process.poll() is None:
                return decoder
            decoder.close()
    return _Decoder()


def _give_back(decoder: _Decoder) -> None:
    with _lock:
        # A slow one has kept its place behind the others.
        if len(_idle) < MOST_IDLE and not decoder.passed:
            _idle.append(decoder)
            return
    decoder.end()


@atexit.register
def _end_all() -> None:
    while _idle:
        _idle.pop().end()


def _forget() -> None:
    """In a forked process: they answer the one that it came from."""
    global _lock, _working, _watcher
    _lock, _working, _watcher = threading.Lock(), threading.Event(), None
    _at_work.clear()
    while _idle:
        _idle.pop().forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
