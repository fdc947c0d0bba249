"""A detector keeps order and place whatever the images are, and several threads get what one gets."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from deformable_detr_refine import Detections, load_image
from deformable_detr_refine.inference import detector
from deformable_detr_refine.inference.detector import Abandoned, DetectionFailure, Detector
from deformable_detr_refine.inference.network import Network


@pytest.fixture(scope="module")
def ready(saved) -> Detector:
    return Detector(saved, device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def photos(samples) -> list:
    return [samples / name for name in ("10.jpg", "BloodImage_00000.jpg", "11.jpg")]


def assert_close(one: Detections, other: Detections) -> None:
    assert one.image_size == other.image_size and len(one) == len(other)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_order_is_kept_and_a_batch_gives_the_numbers_of_single_images(ready, photos):
    together = ready.detect(photos)
    for photo, found in zip(photos, together, strict=True):
        (alone,) = ready.detect([photo.read_bytes()])
        assert alone.image_size == Image.open(photo).size[::-1] and len(alone) == 100
        assert_close(alone, found)


def test_one_bad_image_stands_in_its_place(ready, photos):
    thin = Image.new("RGB", (5000, 1))
    given = DetectionFailure("It was lost on the way.")
    sources = [b"no image", photos[0], given, "none.jpg", thin, photos[1], b""]
    results = ready.detect(sources)
    assert [isinstance(result, Detections) for result in results] == [False, True, False, False, False, True, False]
    assert "not an image" in results[0].error
    assert results[2] is given
    assert "no image file none.jpg" in results[3].error
    assert "too thin" in results[4].error and results[4].image_size == (1, 5000)
    assert_close(results[5], ready.detect([photos[1]])[0])
    assert ready.detect([]) == []


def test_an_image_for_which_there_is_no_memory_fails_alone(ready, photos, monkeypatch):
    def little_memory(source, **limits):
        if source == photos[0]:
            raise MemoryError
        return load_image(source, **limits)

    monkeypatch.setattr(detector, "load_image", little_memory)
    failure, found = ready.detect(photos[:2])
    assert failure == DetectionFailure("There is not enough memory to read the image.")
    assert isinstance(found, Detections)


def test_images_for_which_memory_is_short_together_are_looked_at_one_by_one(ready, photos, monkeypatch):
    """And one for which it is short even so fails alone."""
    expected = ready.detect([photos[0], photos[0]])
    wide = Image.new("RGB", (300, 40))

    def forward(inputs):
        count, _, height, width = inputs["pixel_values"].shape
        if count > 1 or width > 5 * height:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        return network.forward(inputs)

    network = ready.network
    monkeypatch.setattr(ready, "network", network._replace(forward=forward))
    one, failure, other = ready.detect([photos[0], wide, photos[0]])
    assert "not enough memory to look at it" in failure.error and failure.image_size == (40, 300)
    for found, result in zip((one, other), expected, strict=True):
        assert_close(found, result)


def test_pixels_are_limited_before_decoding(saved):
    buffer = io.BytesIO()
    Image.new("1", (3000, 3000)).save(buffer, format="PNG")
    detector = Detector(saved, device="cpu", max_pixels=1_000_000)
    (failure,) = detector.detect([buffer.getvalue()])
    assert "9.0 megapixels, the limit is 1.0" in failure.error


def test_threshold_and_top_k(ready, photos):
    (all_of_them,) = ready.detect(photos[:1])
    middle = float(all_of_them.scores[40])
    (some,) = ready.detect(photos[:1], threshold=middle)
    assert 0 < len(some) <= 40 and (some.scores > middle).all()
    (few,) = ready.detect(photos[:1], top_k=7)
    assert few.boxes.tolist() == all_of_them[:7].boxes.tolist()


def test_threads_get_what_one_gets(ready, photos, monkeypatch):
    """And one thread computes for all of them."""
    expected = ready.detect(photos)
    computing = set()

    def forward(inputs):
        computing.add(threading.get_ident())
        return network.forward(inputs)

    network = ready.network
    monkeypatch.setattr(ready, "network", network._replace(forward=forward))
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: ready.detect(photos), range(4)):
            for one, other in zip(results, expected, strict=True):
                assert_close(one, other)
    assert len(computing) == 1


def test_the_stream_gives_each_key_once_with_its_image(ready, photos):
    keyed = {photo.name: photo for photo in photos} | {"bad": b"no image"}
    seen = {key: (image, result) for key, image, result in ready.detect_each(keyed.items())}
    assert set(seen) == set(keyed)
    assert seen.pop("bad")[0] is None
    for name, (image, result) in seen.items():
        assert image.size == result.image_size[::-1] == load_image(keyed[name]).size


def test_nobody_waits_nothing_is_computed(ready, photos, monkeypatch):
    monkeypatch.setattr(ready, "network", ready.network._replace(forward=lambda inputs: pytest.fail("computed")))
    with pytest.raises(Abandoned):
        ready.detect(photos, keep_going=lambda: False)


def test_smaller_types_are_close(saved, ready, photos):
    (exact,) = ready.detect(photos[:1])
    (close,) = Detector(saved, device="cpu", dtype="bfloat16").detect(photos[:1])
    assert len(close) == 100 and np.abs(np.sort(close.scores) - np.sort(exact.scores)).max() < 0.05
    with pytest.raises(ValueError, match="no floating type int8"):
        Detector(saved, dtype="int8")


def test_an_error_that_is_no_image_s_passes(ready, photos, monkeypatch):
    def broken(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Network, "detect", broken)
    with pytest.raises(RuntimeError):
        ready.detect(photos[:1])


def test_an_mlflow_model_is_the_folder_in_it(saved, ready, photos, tmp_path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "model").symlink_to(saved)
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        Detector(tmp_path, device="cpu")
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    assert_close(Detector(tmp_path, device="cpu").detect(photos[:1])[0], ready.detect(photos[:1])[0])
