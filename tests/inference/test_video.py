"""Videos: every frame at its own time, upright, and none lost without a word."""

import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.small_detector import save_small_detector

from ddetr.images import is_video
from deformable_detr_refine.inference.detections import Detections
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.inference.tracking import Tracker
from deformable_detr_refine.inference.video import Video, VideoWriter, read_ahead

av = pytest.importorskip("av")

PHOTO = Path(__file__).parents[2] / "samples" / "images" / "BloodImage_00053.jpg"
SIZE = (160, 96)


def moving_crops(count: int, size: tuple[int, int] = SIZE) -> Iterator[Image.Image]:
    photo = Image.open(PHOTO)
    return (photo.crop((4 * i, 2 * i, 4 * i + size[0], 2 * i + size[1])) for i in range(count))


def write_clip(path: Path, times, size=SIZE, options=None, sound: bool = False, more_sound: int = 1) -> Path:
    """A clip with a frame at each of these milliseconds."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if sound:
            audio = container.add_stream("aac", rate=16000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            for number in range(more_sound):
                silence.pts = 1024 * number
                container.mux(audio.encode(silence))
            container.mux(audio.encode(None))
        for milliseconds, image in zip(times, moving_crops(len(times), size), strict=True):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(module_folder) -> Path:
    return write_clip(module_folder("clip") / "clip.mp4", range(0, 2000, 100))


def frames_of(path, **chosen):
    with Video(path) as video:
        return list(video.frames(**chosen))


def test_every_frame_has_its_number_its_time_and_its_picture(clip):
    frames = frames_of(clip)
    assert [frame.number for frame in frames] == list(range(20))
    assert [frame.seconds for frame in frames] == pytest.approx([0.1 * i for i in range(20)], abs=1e-3)
    for frame, crop in zip(frames, moving_crops(20), strict=True):
        assert frame.image.mode == "RGB" and frame.image.size == SIZE
        assert np.abs(np.asarray(frame.image, int) - np.asarray(crop, int)).mean() < 6
    with Video(clip) as video:
        assert (video.rate, video.count, video.size, video.has_sound) == (10, 20, SIZE[::-1], False)
        assert video.duration == pytest.approx(2.0, abs=0.05)


def test_some_of_the_frames(clip):
    assert [frame.number for frame in frames_of(clip, every=7)] == [0, 7, 14]
    assert [frame.number for frame in frames_of(clip, start=0.95, end=1.5, every=2)] == [10, 12, 14]
    assert frames_of(clip, start=5) == []


def test_irregular_times_are_kept_to_the_drawn_video(module_folder):
    times = [0, 40, 80, 500, 540, 1700]
    path = write_clip(module_folder("vfr") / "a.mp4", times)
    frames = frames_of(path)
    assert [frame.seconds for frame in frames] == pytest.approx([time / 1000 for time in times], abs=1e-3)
    drawn = path.with_name("drawn.mp4")
    with VideoWriter(drawn, 10) as writer:
        for frame in frames:
            writer.write(frame.image, frame.seconds)
    assert [frame.seconds for frame in frames_of(drawn)] == pytest.approx([time / 1000 for time in times], abs=1e-3)


def test_a_drawn_video_is_one_that_browsers_play(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 30000 / 1001) as writer:
        for number, image in enumerate(moving_crops(4, (161, 97))):
            writer.write(image, number * 1001 / 30000)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (160, 96)
        assert float(stream.average_rate) == pytest.approx(29.97, abs=0.01)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays before all of it has come


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_frames_are_upright(clip, turn, tmp_path):
    """A phone's film: the pixels lie, and the matrix of the track says how they stand."""
    across, down = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    content = bytearray(clip.read_bytes())
    matrix = content.index(b"tkhd") + 44
    values = [across, down, 0, -down, across, 0, 0, 0]
    content[matrix : matrix + 36] = struct.pack(">8iI", *(value << 16 for value in values), 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    stored, turned = frames_of(clip, end=0.05)[0].image, frames_of(tmp_path / "turned.mp4", end=0.05)[0].image
    expected = stored.rotate(-turn, expand=True)  # clockwise
    assert turned.size == expected.size
    assert np.abs(np.asarray(turned, int) - np.asarray(expected, int)).max() <= 2


def test_a_film_cut_short_gives_what_can_be_read_and_says_where_it_ends(tmp_path):
    path = write_clip(tmp_path / "whole.mp4", range(0, 6000, 100), options={"movflags": "+faststart"})
    content = path.read_bytes()
    (tmp_path / "short.mp4").write_bytes(content[: len(content) // 2])
    with Video(tmp_path / "short.mp4") as video:
        frames = list(video.frames())
    assert f"ends at {frames[-1].seconds:.1f} s of 6.0 s" in video.problem
    with av.open(str(path)) as container:  # none is lost, whatever the number of cores
        whole = sum(packet.pos + packet.size <= len(content) // 2 for packet in container.demux(video=0) if packet.size)
    assert 5 < whole <= len(frames) < 55
    with Video(path) as video:
        assert len(list(video.frames())) == 60 and video.problem is None
        assert len(list(video.frames(end=1.0))) == 0  # a video is read once


def test_a_matroska_film_cut_short_is_told_too(tmp_path):
    """It states its length in a tag of the track; that of the file would be the sound's."""
    path = write_clip(tmp_path / "whole.mkv", range(0, 6000, 100), sound=True, more_sound=120)
    with Video(path) as video:
        assert len(list(video.frames())) == 60 and video.problem is None
        assert video.duration == pytest.approx(6.0, abs=0.15) and video.count == pytest.approx(60, abs=2)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with Video(path) as video:
        frames = list(video.frames())
    assert 5 < len(frames) < 55 and f"ends at {frames[-1].seconds:.1f} s of 6" in video.problem


def test_damage_in_the_middle_costs_some_frames_and_is_told(tmp_path):
    path = write_clip(tmp_path / "whole.mp4", range(0, 6000, 100), options={"movflags": "+faststart"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    with Video(path) as video:
        frames = list(video.frames())
    assert 20 < len(frames) < 60 and "its packets cannot be decoded" in video.problem


def test_damage_at_the_end_is_told_as_damage(tmp_path):
    path = write_clip(tmp_path / "whole.mp4", range(0, 6000, 100), options={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3] + bytes(len(content) - len(content) * 2 // 3))
    with Video(path) as video:
        list(video.frames())
    assert "packets cannot be decoded, and are left out. It ends at" in video.problem


@pytest.mark.parametrize(("address", "is_pushed"), [("ftp://host/a.mp4", False), ("rtsp://host/live", True)])
def test_frames_are_passed_over_of_what_does_not_wait(address, is_pushed, tmp_path, monkeypatch):
    """Only a stream without an end comes at its own pace; a film, wherever it lies, gives all its frames."""
    form = "mp4" if address.endswith("mp4") else "h264"  # which states no length
    path = write_clip(tmp_path / f"a.{form}", range(0, 1000, 100))
    container = av.open(str(path))
    monkeypatch.setattr(Video, "_open", lambda self: container)
    with Video(address) as video:
        assert video.is_pushed == is_pushed


def test_joined_films_go_on_in_time(tmp_path):
    """Of a camera that writes pieces: each begins its clock anew."""
    piece = write_clip(tmp_path / "a.ts", range(0, 2000, 100)).read_bytes()
    (tmp_path / "joined.ts").write_bytes(piece + piece)
    seconds = [frame.seconds for frame in frames_of(tmp_path / "joined.ts")]
    assert len(seconds) == 40 and seconds == sorted(seconds) and seconds[-1] == pytest.approx(3.9, abs=0.01)
    with VideoWriter(tmp_path / "drawn.mp4", 10) as writer:
        for frame in frames_of(tmp_path / "joined.ts"):
            writer.write(frame.image, frame.seconds)
    assert len(frames_of(tmp_path / "drawn.mp4")) == 40


def test_sound_that_is_longer_than_the_pictures_cuts_nothing_short(tmp_path):
    path = write_clip(tmp_path / "a.mkv", range(0, 1000, 100), sound=True, more_sound=80)
    with Video(path) as video:
        assert len(list(video.frames())) == 10 and video.problem is None


PLAYLIST = "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.mp4", b"no film at all", "cannot be opened as a video"),
        ("a.mp4", b"", "cannot be opened as a video"),
        ("list.mp4", PLAYLIST.encode(), "cannot be opened as a video"),
        ("list.ts", b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot be opened as a video"),
    ],
)
def test_what_is_no_video_is_one_sentence(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        Video(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="There is no video"):
        Video(tmp_path / "absent.mp4")


def test_sound_without_pictures_and_a_camera_that_is_not_there(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    with pytest.raises(ValueError, match="holds no pictures"):
        Video(tmp_path / "a.mp4")
    with pytest.raises((OSError, ValueError)):
        Video("97")
    with pytest.raises(ValueError, match=r"http://\S*127.0.0.1:9/a.mp4 cannot be opened") as told:
        Video("http://user:secret@127.0.0.1:9/a.mp4")
    assert "secret" not in str(told.value)
    assert Video(write_clip(tmp_path / "b.mp4", [0, 100], sound=True)).has_sound


def test_words_that_mean_a_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "10:15.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"10:15\.mp4 cannot be opened as a video: Invalid data"):
        Video("10:15.mp4")
    assert is_video("0") and is_video("RTSP://camera") and not is_video("photos")
    (tmp_path / "0").mkdir()
    assert not is_video("0")  # a folder of this name


def test_reading_ahead_is_bounded_ends_and_passes_errors_on():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number
        raise OSError("torn")

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0
    for _ in range(50):
        threading.Event().wait(0.01)
    assert len(taken) <= 5
    with pytest.raises(OSError, match="torn"):
        list(ahead)
    before, ahead = threading.active_count(), read_ahead(iter(range(100)), 3)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before


def test_what_does_not_wait_is_passed_over_but_for_the_newest():
    taken, ended = [], threading.Event()

    def items():
        for number in range(100):
            taken.append(number)
            yield number
        ended.set()

    ahead = read_ahead(items(), 3, skip=True)
    first = next(ahead)
    assert ended.wait(5)
    rest = list(ahead)
    assert taken == list(range(100)) and rest == sorted(rest) and first < rest[0]
    assert len(rest) <= 3 and rest[-1] == 99


@pytest.fixture(scope="module")
def detector(module_folder) -> Detector:
    folder = save_small_detector(module_folder("model"), {"shortest_edge": 64, "longest_edge": 96}, ["a", "b"])
    return Detector(folder, "cpu", batch_size=3)


def test_a_video_is_its_frames(detector, clip):
    expected = detector.detect([frame.image for frame in frames_of(clip, every=3)], threshold=0.1, top_k=9)
    seen = list(detector.video(clip, 0.1, 9, every=3))
    assert [frame.number for frame, _ in seen] == list(range(0, 20, 3))
    for (_, found), one in zip(seen, expected, strict=True):
        assert found.boxes == pytest.approx(one.boxes, abs=1e-3) and found.labels.tolist() == one.labels.tolist()


def test_a_film_cut_short_warns_whoever_gave_its_path(detector, tmp_path):
    path = write_clip(tmp_path / "a.mp4", range(0, 6000, 100), options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"a.mp4 is cut short"):
        assert 1 < len(list(detector.video(path, every=5))) < 12


def test_leaving_early_ends_the_reader_and_closes_the_file(detector, clip):
    before = threading.active_count()
    frames = detector.video(clip)
    next(frames)
    frames.close()
    assert threading.active_count() == before


def test_the_same_object_keeps_its_number():
    names, tracker = {0: "a", 1: "b"}, Tracker(10, 0.3)
    seen = []
    for number in range(12):
        boxes = [[10 + 6 * number, 20, 50 + 6 * number, 60], [200 - 5 * number, 90, 230 - 5 * number, 130]]
        order = [0, 1] if number % 2 else [1, 0]
        found = Detections([boxes[i] for i in order], [0.9, 0.5], order, names, (200, 300))
        followed = tracker.follow(found, number / 10)
        assert np.array_equal(followed.boxes, found.boxes) and followed.labels.tolist() == order
        seen.append({label: int(i) for label, i in zip(followed.labels, followed.ids, strict=True)})
    assert seen[0] == {0: -1, 1: -1}
    assert all(one == other for one, other in pairwise(seen[2:])) and len(set(seen[-1].values())) == 2
    empty = tracker.follow(found[[]], 1.2)
    assert len(empty) == 0 and empty.ids is not None


@pytest.mark.parametrize("step", [0.04, 1.0, 2.0, 7.0])
def test_objects_are_followed_however_far_apart_frames_are(step):
    tracker = Tracker(1 / step, 0.3)
    box = Detections([[10, 20, 50, 60]], [0.9], [0], {0: "a"}, (200, 300))
    assert [int(tracker.follow(box, number * step).ids[0]) for number in range(5)] == [-1, 0, 0, 0, 0]


def test_two_classes_of_one_box_are_told_apart():
    tracker, names, seen = Tracker(10, 0.3), {0: "a", 1: "b"}, []
    for number in range(6):
        labels = [0, 1] if number % 2 else [1, 0]
        found = Detections([[10, 20, 50, 60]] * 2, [0.9, 0.8], labels, names, (90, 90))
        ids = tracker.follow(found, number / 10).ids
        seen.append({label: int(i) for label, i in zip(labels, ids, strict=True)})
    assert all(one == other for one, other in pairwise(seen[1:])) and sorted(seen[-1].values()) == [0, 1]
