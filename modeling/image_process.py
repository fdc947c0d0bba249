"""Decoding in a process of its own, which is ended when an image costs more than its pixels explain.

A process is started at the first image and serves many; threads that decode at the same time have one each.
"""

import atexit
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Protocol

from PIL import Image

from . import image_decoding
from .image_decoding import decode, open_image, refuse_bomb, upright_size

# For what waits without computing, and for systems without the other clock. Generous, as the machine may be busy.
WALL_SECONDS = 120.0
GREETING_SECONDS = 30.0
MOST_IDLE = 8  # as many as an evaluation reads images with
# After so many, an image is slow: photos take less.
PATIENCE_SECONDS = 1.0


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

    Where no process can be started, as in a program that embeds Python, the file is decoded here.

    Args:
        content: the file's.
        name: for errors.
        max_pixels: width * height above which it is refused.
        patience: is told when this image takes long.

    Raises:
        ValueError: it is no image, damaged, above the limit, or takes more time or memory than its pixels explain.
    """
    request = {"length": len(content), "name": name, "max_pixels": max_pixels}
    if (answer := _ask(request, content, name, patience)) is not None:
        return Image.frombytes("RGB", *answer)
    refuse_bomb(content, name)
    with open_image(io.BytesIO(content), name) as image:
        return decode(image, name, max_pixels, in_place=True)


def size_apart(source: bytes | str, name: str) -> tuple[int, int]:
    """Width and height of the upright image in a file, given by its content or its path, from its header.

    Raises:
        ValueError: it is no image, a damaged one, or takes more time or memory than a header should.
    """
    content = source if isinstance(source, bytes) else b""
    request = {
        "length": len(content),
        "name": name,
        "path": None if isinstance(source, bytes) else os.path.realpath(source),
    }
    if (answer := _ask(request, content, name)) is not None:
        return answer[0]
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        return upright_size(open_image(file, name))


def _ask(
    request: dict[str, Any], content: bytes, name: str, patience: Patience | None = None
) -> tuple[tuple[int, int], bytes] | None:
    """Size and pixels, which are none when they are not asked for; None where no process can be started.

    Raises:
        ValueError: what the process says of the image, or that it had to be ended.
    """
    try:
        decoder = _take()
    except OSError:
        return None
    try:
        answer, pixels = decoder.ask(content, request, patience)
    except (EOFError, OSError) as error:
        late = decoder.end() == -getattr(signal, "SIGPROF", 0) or decoder.late
        why = "takes longer to decode than a picture of its size should" if late else "makes its decoder crash"
        raise ValueError(f"{name} {why}: save it anew.") from error
    except BaseException:
        decoder.end()  # in the middle of an answer, as after Ctrl-C
        raise
    _give_back(decoder)
    if "error" in answer:
        raise ValueError(answer["error"])
    return tuple(answer["size"]), pixels


class _Decoder:
    """A process that runs `image_decoding.py`.

    Raises:
        OSError: it cannot be started.
    """

    no_python = False  # where it is another program, which is not started for each image

    def __init__(self):
        if _Decoder.no_python or not sys.executable or getattr(sys, "frozen", False):
            raise OSError("there is no Python to start")
        # As modules are found here, without the seconds that some packages add to Python's start.
        command = [sys.executable, "-S", "-P", image_decoding.__file__]
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        # Memory for photos is kept from one to the next: 3 ms less of 5 for 640x480.
        kept = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**25)}
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=nowhere,
            env=os.environ | paths | kept,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.late = self.passed = False
        try:
            self.ask(b"", {"length": 0, "name": "", "path": None}, seconds=GREETING_SECONDS)
        except (EOFError, OSError) as error:
            self.end()
            _Decoder.no_python = True
            raise OSError("the process gives no answer") from error

    def ask(
        self,
        content: bytes,
        request: dict[str, Any],
        patience: Patience | None = None,
        seconds: float = WALL_SECONDS,
    ) -> tuple[dict[str, Any], bytes]:
        """What the process answers, and pixels.

        Raises:
            EOFError, OSError: it has ended.
        """
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None
        timers = [threading.Timer(seconds, self._too_late)]
        if patience is not None:
            timers.append(threading.Timer(PATIENCE_SECONDS, self._slow, [patience]))
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.write(content)
            requests.flush()
            line = answers.readline()
            answer = json.loads(line) if line.endswith(b"\n") else {}
            length = answer.get("length", 0)
            pixels = answers.read(length)
        finally:
            for timer in timers:
                timer.cancel()
            for timer in timers:
                timer.join()  # one that has begun
            if patience is not None and self.passed:
                patience.end()
        if not answer or len(pixels) < length:
            raise EOFError
        return answer, pixels

    def end(self) -> int:
        """Ends the process; gives its exit status."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.process.returncode is None:
            self.process.kill()
        return self.process.wait()

    def _slow(self, patience: Patience) -> None:
        if patience.begin():
            self.passed = True
            with contextlib.suppress(AttributeError, OSError):
                os.setpriority(os.PRIO_PROCESS, self.process.pid, 10)

    def _too_late(self) -> None:
        self.late = True
        self.process.kill()


_idle: list[_Decoder] = []
_lock = threading.Lock()


def _take() -> _Decoder:
    with _lock:
        while _idle:
            decoder = _idle.pop()
            if decoder.process.poll() is None:
                return decoder
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
    global _lock
    _lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
