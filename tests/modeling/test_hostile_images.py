"""Images that cost a decoder minutes or gigabytes end soon, each with its sentence, and the next image is decoded."""

import gc
import io
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from support.hostile_images import bmp_of_runs, gif_of_comments, jpeg_of_scans

from deformable_detr_refine.modeling import image_process
from deformable_detr_refine.modeling.image_decoding import jpeg_scans
from deformable_detr_refine.modeling.image_io import image_size, load_image


def photo(format: str = "JPEG", side: int = 64, **options) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


BOMBS = {
    "scans": (jpeg_of_scans(4000), "is a JPEG of 4001 scans, the limit is 100"),
    "runs": (bmp_of_runs(49_000_000), "is a run-length BMP that lacks most of its pixels"),
    "jump": (bmp_of_runs(49_000_000, 2, b"\1\0\0\2\xff\xff"), "is a run-length BMP that lacks most of its pixels"),
}


@pytest.mark.parametrize(("content", "sentence"), BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_with_their_sentence(content, sentence):
    with pytest.raises(ValueError, match=f"^The given file {sentence}: save it anew\\.$"):
        load_image(content)


LITTLE_MEMORY = """
import sys
sys.path.insert(0, sys.argv[1])
import image_decoding
image_decoding._BASE_BYTES = 128 * 2**20
image_decoding._BYTES_A_PIXEL = 0
image_decoding.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_memory_is_bounded():
    file = io.BytesIO()
    Image.new("L", (6000, 6000)).save(file, "PNG")
    content = file.getvalue()
    request = json.dumps({"length": len(content), "name": "big.png", "max_pixels": 10**8}).encode() + b"\n"
    command = [sys.executable, "-c", LITTLE_MEMORY, str(Path(image_process.__file__).parent)]
    done = subprocess.run(command, input=request + content, capture_output=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["error"] == "big.png takes more memory to decode than a picture of its size should: save it anew."


@pytest.mark.slow
@pytest.mark.parametrize("read", [load_image, image_size])
def test_what_nobody_thought_of_is_ended_by_the_clock(read, tmp_path):
    file = tmp_path / "bomb.gif"
    file.write_bytes(gif_of_comments(20_000_000))  # 40 s of computing
    with pytest.raises(ValueError, match=r"bomb\.gif takes longer to decode than a picture of its size should"):
        read(file)
    assert read(photo()) is not None


def test_photos_of_many_scans_are_none():
    """Progressive ones have 10; previews in the metadata do not count."""
    assert jpeg_scans(photo(progressive=True)) == 10
    preview = b"\xff\xe2" + struct.pack(">H", 2 + 4000) + b"\xff\xda\x00\x02" * 1000
    content = photo(progressive=True)
    with_previews = content[:2] + preview * 3 + content[2:]
    assert jpeg_scans(with_previews) == 10
    assert load_image(with_previews).tobytes() == load_image(content).tobytes()


def test_run_length_bmps_that_are_whole_are_read():
    whole = bmp_of_runs(1000, 4, (b"\xff\x07" * 3 + b"\xeb\x07\0\0") * 4 + b"\0\1")
    assert load_image(whole).size == (1000, 4)


def test_threads_get_what_one_gets():
    files = [photo(side=side) for side in range(8, 40)]
    with ThreadPoolExecutor(8) as pool:
        for image, content in zip(pool.map(load_image, files), files, strict=True):
            assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_a_decoder_that_died_while_idle_costs_nothing():
    load_image(photo())
    for decoder in image_process._idle:
        os.kill(decoder.process.pid, signal.SIGTERM)
        decoder.process.wait()
    assert load_image(photo()).size == (64, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a safe fork")
def test_a_forked_process_has_decoders_of_its_own():
    load_image(photo())
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=lambda: answers.put([load_image(photo(side=32)).size for _ in range(8)]))
    process.start()
    assert [load_image(photo()).size for _ in range(8)] == [(64, 64)] * 8
    assert answers.get(timeout=60) == [(32, 32)] * 8
    process.join(60)


def test_without_a_process_it_is_decoded_here(monkeypatch):
    monkeypatch.setattr(image_process, "_idle", [])
    monkeypatch.setattr(image_process._Decoder, "no_python", True)
    assert load_image(photo()).size == image_size(photo("TIFF")) == (64, 64)
    with pytest.raises(ValueError, match="4001 scans"):
        load_image(BOMBS["scans"][0])


def test_where_no_more_processes_can_be_started_nothing_is_decoded(monkeypatch):
    def cannot_start(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(image_process, "_idle", [])
    monkeypatch.setattr(subprocess, "Popen", cannot_start)
    with pytest.raises(OSError, match=r"^The given file is not decoded, since no process can be started \(.*\): try"):
        load_image(photo())


def test_without_memory_for_the_pixels_an_image_fails_alone(monkeypatch):
    def no_memory(*_):
        raise MemoryError

    files = [photo(side=side) for side in (64, 1000)]  # through a pipe, and through memory in common
    with monkeypatch.context() as patch:
        patch.setattr(Image, "frombytes", no_memory)
        for file in files:
            with pytest.raises(OSError, match=r"^The given file is not decoded, since there is no memory for"):
                load_image(file)
    assert load_image(files[1]).size == (1000, 1000)


def test_sizes_in_the_head_need_no_process(monkeypatch, tmp_path):
    monkeypatch.setattr(image_process, "_take", None)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for format, size, options in (("JPEG", (30, 20), {"exif": turned}), ("PNG", (20, 30), {}), ("BMP", (20, 30), {})):
        file = tmp_path / "a"
        Image.new("RGB", (20, 30)).save(file, format, **options)
        assert image_size(file) == image_size(file.read_bytes()) == size


@pytest.mark.parametrize("sides", [(900, 700), (700, 900)])
def test_many_pixels_are_the_same(sides):
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    for _ in range(2):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=0)
        assert np.array_equal(np.asarray(load_image(file.getvalue())), pixels)
        pixels = pixels[::-1]


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
def test_a_program_without_a_standard_stream_decodes_too():
    image_process._end_all()  # that have their streams
    kept = os.dup(0)
    os.close(0)
    try:
        assert load_image(photo(side=1000)).size == (1000, 1000)
    finally:
        image_process._end_all()
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a fork")
def test_a_forked_process_warns_of_nothing():
    load_image(photo())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for decoder in (image_process._Decoder() for _ in range(2)):
            process = decoder.process
            decoder.forget()
            os.kill(process.pid, signal.SIGTERM)
            os.waitpid(process.pid, 0)
            del decoder, process
        gc.collect()
    assert not told


def test_who_waits_for_a_slow_image_may_let_others_pass(monkeypatch):
    monkeypatch.setattr(image_process, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(image_process, "TICK_SECONDS", 0.01)
    told = []

    class Waiting:
        def begin(self) -> bool:
            told.append("begin")
            return True

        def end(self) -> None:
            told.append("end")

    image_process.decode_apart(photo("PNG", 1500), "a", 10**8, Waiting())
    assert told == ["begin", "end"]
