"""Moving pictures: frames out of a file, a camera or an address with their times, and drawn frames into a file."""

import re
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Any, TypeVar

from PIL import Image

from deformable_detr_refine.messages import near, one_line
from deformable_detr_refine.modeling.image_io import MAX_PIXELS, as_text
from deformable_detr_refine.secret_text import without_secrets

# Who reads a camera by its number.
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_ENCODERS = ("libx264", "h264_videotoolbox", "libopenh264", "h264_nvenc", "h264_mf")
_TIME = re.compile(r"(\d+):(\d+):(\d+\.?\d*)")
_CLOCK = Fraction(1, 90_000)  # of what is written
OPEN_SECONDS, READ_SECONDS = 15.0, 15.0
Item = TypeVar("Item")


@dataclass(frozen=True)
class VideoFrame:
    """One frame.

    Args:
        number: of all frames of the video, from 0.
        seconds: since the first frame, also where frames come irregularly.
        image: RGB, upright, in pixels of the video.
    """

    number: int
    seconds: float
    image: Image.Image


class Video:
    """A video that is read once, frame by frame.

    Args:
        source: a file, the number of a camera, or an address (rtsp, http) that FFmpeg reads. A file is opened as such:
            what stands in it cannot make FFmpeg ask the network.

    Raises:
        ImportError: the package av is not installed.
        OSError, ValueError: there is no such video, it is none, or its codec is not known.

    Example:
        with Video("clip.mp4") as video:
            for frame in video.frames(every=10):
                print(frame.number, frame.seconds, frame.image.size)
    """

    def __init__(self, source: str | Path):
        self._av = import_av()
        self.source = str(source)
        self.name = as_text(without_secrets(self.source))
        self.problem: str | None = None
        self._is_broken = False
        self._damaged = 0  # packets
        self._held = 0.0  # seconds for which the last frame is shown
        self._container: Any = self._open()
        try:
            self._check()
        except ValueError:
            self._container.close()
            raise

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as it is stored; frames that are turned have them the other way round."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    @property
    def rate(self) -> float:
        """Frames a second, on average; 25 where the video does not say."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 25)

    @property
    def count(self) -> int | None:
        """About how many frames there are, if that is known."""
        if self._stream.frames:
            return self._stream.frames
        return round(self.duration * self.rate) if self.duration else None

    @property
    def duration(self) -> float | None:
        """Seconds, as the video says."""
        return self._own_duration or self._whole_duration

    @property
    def _own_duration(self) -> float | None:
        """Without that of the sound, which may be longer."""
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        if end := _TIME.fullmatch(self._stream.metadata.get("DURATION", "")):  # of Matroska
            hours, minutes, seconds = map(float, end.groups())
            begin = float((self._stream.start_time or 0) * self._stream.time_base)
            return 3600 * hours + 60 * minutes + seconds - begin
        return self._whole_duration if len(self._container.streams) == 1 else None

    @property
    def _whole_duration(self) -> float | None:
        return self._container.duration / self._av.time_base if self._container.duration else None

    def frames(self, every: int = 1, start: float = 0.0, end: float | None = None) -> Iterator[VideoFrame]:
        """Every n-th frame of those from `start` to before `end`, in seconds; frames before are decoded, too.

        A video that breaks off gives what can be read; `problem` then says in a sentence where it ended.
        """
        first, last, chosen = None, 0.0, 0
        for number, frame in enumerate(self._decoded()):
            time = frame.time if frame.time is not None else number / self.rate
            if first is None:
                first = time
            elif time - first <= last:  # the clock starts anew, where films were joined
                first = time - last - 1 / self.rate
            last = time - first
            if end is not None and last >= end:
                return
            if last < start:
                continue
            if chosen % every == 0:
                yield VideoFrame(number, round(last, 6), self._upright(frame))
            chosen += 1
        if self.is_live or self._is_broken:
            return
        if first is None:
            self.problem = f"{self.name} holds no frame that can be read."
        elif (whole := self._own_duration) and whole - last > max(1.0, 5 / self.rate) + self._held:
            # Where a film is cut, it is cut inside of a packet.
            what = self.problem if self._damaged > 1 else f"{self.name} is cut short."
            self.problem = f"{what} It ends at {last:.1f} s of {whole:.1f} s."

    def _decoded(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.duration:
                    self._held = float(packet.duration * packet.time_base)
                try:
                    yield from packet.decode()
                except (self._av.error.InvalidDataError, EOFError):
                    self._damaged += 1
                    self.problem = (
                        f"{self.name} is damaged: {self._damaged} of its packets cannot be decoded, and are left out."
                    )
        except self._av.error.FFmpegError as error:
            self._is_broken = True
            self.problem = f"{self.name} breaks off: {error.strerror or one_line(error)}."

    def _upright(self, frame: Any) -> Image.Image:
        image = frame.to_image()
        turn = frame.rotation % 360
        return image.rotate(turn, expand=True) if turn else image

    def _open(self) -> Any:
        name, form, options = self.source, None, {}
        if name.isdecimal():
            if sys.platform not in _CAMERAS:
                raise ValueError(f"Cameras have no numbers on {sys.platform}: give a file or an address.")
            form, pattern = _CAMERAS[sys.platform]
            name = pattern.format(name)
            if sys.platform == "linux" and not Path(name).exists():
                raise FileNotFoundError(f"There is no camera {self.source} ({name}).")
        elif "://" not in name:
            if not Path(name).is_file():
                raise FileNotFoundError(f"There is no video {self.name}{near(self.name)}")
            name, options = f"file:{name}", {"protocol_whitelist": "file"}
        else:
            options = {"rtsp_flags": "prefer_tcp"}  # by UDP, what comes while the model loads would be lost
        try:
            return self._av.open(name, format=form, options=options, timeout=(OPEN_SECONDS, READ_SECONDS))
        except self._av.error.FFmpegError as error:
            # Messages of FFmpeg repeat the address, with its password.
            reason = error.strerror or type(error).__name__
            raise ValueError(f"{self.name} cannot be opened as a video: {reason}.") from error

    def _check(self) -> None:
        if not self._container.streams.video:
            raise ValueError(f"{self.name} holds no pictures.")
        self._stream = self._container.streams.video[0]
        self.has_sound = bool(self._container.streams.audio)
        self.is_live = (self.source.isdecimal() or "://" in self.source) and not self.duration
        # It comes at its own pace, and what nobody takes is lost.
        self.is_pushed = self.is_live and not self.source.lower().startswith(("http:", "https:", "file:"))
        # By frames, the last ones before a damage would be lost, and a camera's come late.
        self._stream.thread_type = "SLICE"
        codec = self._stream.codec_context
        if codec is None:
            raise ValueError(f"{self.name} is written with a codec that is not known here.")
        if not codec.width or not codec.height:
            raise ValueError(f"{self.name} is no video: it has no size.")
        if codec.width * codec.height > MAX_PIXELS:
            raise ValueError(f"{self.name} has frames of {codec.width}x{codec.height}, more than {MAX_PIXELS} pixels.")


class VideoWriter:
    """Pictures into an MP4 that browsers play (H.264, yuv420p), each at its own time; there is no sound.

    Args:
        path: the file to write. It is playable when the block has ended.
        rate: frames a second, on average.

    Raises:
        ValueError: no encoder of H.264 is there.
    """

    def __init__(self, path: Path, rate: float):
        self._av = import_av()
        self._path, self._rate = path, Fraction(rate).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._codec = next((name for name in _ENCODERS if name in self._av.codecs_available), None)
        if self._codec is None:
            raise ValueError("This build of av has no encoder of H.264, which drawn videos need.")

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._container is not None:
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()

    def write(self, image: Image.Image, seconds: float) -> None:
        """One picture, later than the one before; all get the size of the first."""
        container = self._container or self._begin(*image.size)
        frame = self._av.VideoFrame.from_image(image)
        frame = frame.reformat(self._stream.width, self._stream.height, "yuv420p")
        frame.pts, frame.time_base = round(seconds / _CLOCK), _CLOCK
        container.mux(self._stream.encode(frame))

    def _begin(self, width: int, height: int) -> Any:
        self._container = self._av.open(str(self._path), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream(self._codec, rate=self._rate)
        # H.264 of this kind has even sides.
        self._stream.width, self._stream.height = width // 2 * 2 or 2, height // 2 * 2 or 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _CLOCK
        if self._codec == "libx264":
            self._stream.options = {"preset": "veryfast", "crf": "23"}
        return self._container


def read_ahead(items: Iterator[Item], most: int, skip: bool = False) -> Generator[Item, None, None]:
    """The same items, taken by a thread while others are worked on; up to `most` of them wait.

    With `skip` the items do not wait for the work: the oldest that waits is passed over.

    Example:
        >>> list(read_ahead(iter("abc"), 2))
        ['a', 'b', 'c']
    """
    waiting: Queue[tuple[Item | None, BaseException | None]] = Queue(most)
    stopped = Event()

    def put(item: Item | None, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((item, error), timeout=0 if skip else 0.1)
                return True
            except Full:
                if skip:
                    with suppress(Empty):
                        waiting.get_nowait()
        return False

    def read() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = waiting.get(timeout=0.1)  # a Ctrl-C comes in between
            except Empty:
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType]
    finally:
        stopped.set()
        thread.join()


def import_av() -> Any:
    """The package av, FFmpeg's libraries.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('Videos need the package av: pip install "deformable-detr-refine[video]".') from error
    return av


__all__ = ["Video", "VideoFrame", "VideoWriter", "read_ahead"]
