"""Detections over a data set: the same numbers in any batch, each image once, few of them in memory."""

import gc
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deformable_detr_refine import DeformableDetrRefineImageProcessor
from deformable_detr_refine.data.row_image import row_image
from deformable_detr_refine.evaluation.predict import predict
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.network import Network, no_memory_told

SIZES = [(90, 60), (60, 90), (90, 60), (80, 80), (60, 90), (90, 60), (90, 60)]


@pytest.fixture(scope="module")
def detector(saved_small):
    return load_detector(str(saved_small), "cpu")[0]


@pytest.fixture(scope="module")
def processor():
    return DeformableDetrRefineImageProcessor(size={"shortest_edge": 96, "longest_edge": 144})


@pytest.fixture(scope="module")
def single(detector, processor, rows) -> dict:
    """What is found one by one."""
    return by_id(predict(detector, processor, rows, 1, workers=0))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Images of noise, in bytes and in files, with a box each but for the last."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    rows = []
    for number, (width, height) in enumerate(SIZES):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, format="PNG")
        (folder / f"{number}.png").write_bytes(file.getvalue())
        source = {"bytes": file.getvalue(), "path": None}
        if number % 2:
            source = {"bytes": None, "path": str(folder / f"{number}.png")}
        box = [[1.0, 2.0, 30.0, 40.0]] if number < len(SIZES) - 1 else []
        objects = {"id": [1], "bbox": box, "category": [0] * len(box), "area": [9.0] * len(box)}
        row = {"image_id": 100 - number, "file_name": f"{number}.png", "image": source}
        rows.append({**row, "width": width, "height": height, "objects": objects})
    return rows


def by_id(images) -> dict:
    return {image.image_id: image for image in images}


@pytest.mark.parametrize("batch_size", [2, 5])
@pytest.mark.parametrize("workers", [0, 3])
def test_batches_give_what_single_images_give(batch_size, workers, detector, processor, rows, single):
    counts = []
    images = list(predict(detector, processor, rows, batch_size, counts.append, workers))
    assert sum(counts) == len(images) == len(single) == len(rows)
    assert max(counts) > 1
    for row in rows:
        image, alone = by_id(images)[row["image_id"]], single[row["image_id"]]
        assert (image.file_name, image.size) == (row["file_name"], (row["height"], row["width"]))
        assert image.true_boxes.tolist() == [[1, 2, 31, 42]] * len(row["objects"]["bbox"])
        assert len(image.scores) == 100 and (np.diff(image.scores) <= 0).all()
        assert (image.boxes >= 0).all() and (image.boxes <= [row["width"], row["height"]] * 2).all()
        np.testing.assert_allclose(image.scores, alone.scores, atol=1e-5)
        # Equal scores may change places.
        same = image.labels == alone.labels
        assert same.mean() > 0.9
        assert np.median(np.abs(image.boxes - alone.boxes)[same]) < 1e-3


def test_ranks_share_the_rows(detector, processor, rows):
    shares = [by_id(predict(detector, processor, rows, 2, indices=range(rank, len(rows), 3))) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert set().union(*shares) == {row["image_id"] for row in rows}


def test_the_model_is_in_evaluation_mode_only_meanwhile(detector, processor, rows):
    detector.train()
    try:
        images = predict(detector, processor, rows)
        next(images)
        assert not detector.training
        images.close()
        assert detector.training
    finally:
        detector.eval()


def test_smaller_types_run(detector, processor, rows):
    import copy

    half = copy.deepcopy(detector).to(torch.bfloat16)
    images = by_id(predict(half, processor, rows, 2))
    for image_id, image in by_id(predict(detector, processor, rows, 2)).items():
        np.testing.assert_allclose(images[image_id].scores[:10], image.scores[:10], atol=0.05)


def test_few_images_wait(detector, processor, rows, monkeypatch):
    """However long the data set, few images are decoded and not yet detected: two a worker, and two batches."""
    lock, waiting, most = threading.Lock(), 0, 0

    def counting(row):
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        return row_image(row)

    monkeypatch.setattr("deformable_detr_refine.evaluation.predict.row_image", counting)
    for _ in predict(detector, processor, [rows[0]] * 24, 2, workers=3):
        with lock:
            waiting -= 1
    assert most <= 2 * 3 + 2 * 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of Linux")
def test_memory_grows_by_the_detections_only(detector, tmp_path):
    """300 more images of 0.9 MB keep 5 KB each; kept whole they would be 270 MB."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((640, 480)).save(tmp_path / "a.jpg")
    row = {"file_name": "a.jpg", "image": {"bytes": None, "path": str(tmp_path / "a.jpg")}, "width": 640, "height": 480}
    rows = [{**row, "image_id": number, "objects": {"bbox": [], "category": []}} for number in range(400)]
    small = DeformableDetrRefineImageProcessor(size={"shortest_edge": 64, "longest_edge": 107})
    images = []
    for image in predict(detector, small, rows, 4, workers=1):
        images.append(image)
        if len(images) in (100, 400):
            gc.collect()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            if len(images) == 100:
                before = resident
    assert resident - before < 40 * 2**20


def test_images_that_cannot_be_used_are_named(detector, processor, rows, tmp_path):
    row = rows[0]
    for source in ({"bytes": b"not an image", "path": None}, {"bytes": None, "path": str(tmp_path / "none.png")}):
        with pytest.raises((OSError, ValueError), match=r"0\.png: "):
            list(predict(detector, processor, [*rows[1:], {**row, "image": source}], 2))
        told, counts = [], []
        found = predict(
            detector, processor, [*rows[1:], {**row, "image": source}], 2, counts.append, unusable=told.append
        )
        assert row["image_id"] not in by_id(found)
        assert len(told) == 1 and told[0].startswith("0.png: ") and sum(counts) == len(rows)
    thin = {**row, "image": Image.new("RGB", (900, 1)), "width": 900, "height": 1}
    with pytest.raises(ValueError, match=r"0\.png: An image of 900x1 pixels is too thin"):
        list(predict(detector, processor, [thin]))
    with pytest.raises(ValueError, match=r"0\.png is 90x60 pixels, but the data set says 60x90"):
        list(predict(detector, processor, [{**row, "width": 60, "height": 90}]))


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "turned.jpg", exif=exif)
    row = {"image": {"bytes": None, "path": str(tmp_path / "turned.jpg")}, "file_name": "t", "width": 48, "height": 64}
    assert row_image(row).size == (48, 64)


@pytest.mark.parametrize("where", ["prepare", "forward"])
def test_where_memory_is_short_images_come_one_by_one_and_one_fails_alone(
    detector, processor, rows, single, monkeypatch, where
):
    """In the threads that prepare images as in the model."""
    run, prepare = Network.run, Network.prepare

    def short(shape) -> None:
        if shape[0] > 1 or tuple(shape[-2:]) == processor.resized_shape(80, 80):
            raise MemoryError

    def short_prepare(network, images):
        with no_memory_told():
            short((len(images), *processor.resized_shape(images[0].height, images[0].width)))
        return prepare(network, images)

    def short_run(network, inputs, *arguments):
        with no_memory_told():
            short(inputs["pixel_values"].shape)
        return run(network, inputs, *arguments)

    monkeypatch.setattr(Network, *(("prepare", short_prepare) if where == "prepare" else ("run", short_run)))
    told = []
    found = by_id(predict(detector, processor, rows, 3, unusable=told.append))
    assert told == ["3.png: There is not enough memory to look at it; tiles or a smaller size need less."]
    assert found.keys() == single.keys() - {97}
    assert all(np.allclose(image.scores, single[key].scores, atol=1e-5) for key, image in found.items())
    with pytest.raises(ValueError, match=r"3\.png: There is not enough memory"):
        list(predict(detector, processor, rows, 3))
