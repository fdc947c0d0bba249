"""Detections hold what they promise, convert without loss, and draw so that a person can read it."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from deformable_detr_refine import Detections
from deformable_detr_refine.inference import drawing
from deformable_detr_refine.inference.drawing import class_color, text_color

SAMPLES = Path(__file__).parents[2] / "samples"
NAMES = {0: "can", 1: "carton", 2: "milk_bottle"}
SIZE = (60, 80)


def random_detections(count=12, seed=0, size=SIZE) -> Detections:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1) * [size[1], size[0]]
    scores = np.sort(random.uniform(0, 1, count))[::-1]
    return Detections(corners.reshape(count, 4), scores, random.integers(0, 3, count), NAMES, size)


@pytest.fixture(params=[0, 1, 12], ids=lambda count: f"{count} boxes")
def found(request):
    return random_detections(request.param)


def test_tensors_arrays_and_lists_are_the_same(found):
    kinds = [
        lambda x: x.tolist(),
        np.array,
        torch.tensor,
        lambda x: torch.tensor(x).requires_grad_(x.dtype != np.int64),
    ]
    for kind in kinds:
        again = Detections(kind(found.boxes), kind(found.scores), kind(found.labels), NAMES, torch.tensor(SIZE))
        assert again == found
        assert again.boxes.shape == (len(found), 4)
        assert (again.boxes.dtype, again.scores.dtype, again.labels.dtype) == (np.float32, np.float32, np.int64)


def test_half_precision_tensors_are_taken():
    found = Detections(torch.tensor([[0, 0, 8, 8]], dtype=torch.bfloat16), torch.tensor([0.5]).half(), [0], NAMES, SIZE)
    assert found == Detections([[0, 0, 8, 8]], [0.5], [0], NAMES, SIZE)


def test_what_was_validated_stays_so(found):
    given = np.array(found.boxes)
    kept = Detections(given, found.scores, found.labels, NAMES, SIZE)
    given[:] = -7
    assert kept == found
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.scores = kept.scores
    with pytest.raises(ValueError, match="read-only"):
        kept.boxes[...] = 1


GOOD = {
    "boxes": [[0, 0, 4, 4], [1, 1, 5, 9]],
    "scores": [0.9, 0.8],
    "labels": [0, 1],
    "id2label": NAMES,
    "image_size": SIZE,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[0, 0, 4], [1, 1, 5]]}, r"boxes have shape \(2, 3\), expected \(N, 4\)"),
        ({"boxes": [0, 0, 4, 4]}, r"boxes have shape \(4,\)"),
        ({"scores": [0.9]}, r"scores have shape \(1,\), expected \(2,\) for 2 boxes"),
        ({"labels": [[0], [1]]}, r"labels have shape \(2, 1\)"),
        ({"labels": [0.0, 1.0]}, "expected integers"),
        ({"labels": [0, 7]}, "label number 1 is 7: id2label names 3 other labels only"),
        ({"boxes": [[0, 0, 4, 4], [5, 1, 1, 9]]}, "box number 1 is .*: expected x0 <= x1 and y0 <= y1"),
        ({"boxes": [[0, 0, 4, 4], [1, 1, float("nan"), 9]]}, "box number 1 is .*: its corners are not finite"),
        ({"scores": [0.9, 1.5]}, "score number 1 is 1.5: expected 0..1"),
        ({"scores": [float("nan"), 0.5]}, "score number 0 is nan"),
        ({"image_size": (60,)}, "expected .height, width."),
        ({"image_size": (0, 80)}, "at least one pixel"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Detections(**GOOD | change)


def test_subsets(found):
    mask = found.scores > 0.5
    assert found[mask] == found.filter(0.5) == found[np.flatnonzero(mask)] == found[torch.tensor(mask)]
    assert found[:3] == found[[0, 1, 2]] if len(found) > 3 else found[:3] == found
    assert found[[]] == found[:0]
    assert [one.names for one in found] == [[name] for name in found.names]
    with pytest.raises(IndexError):
        found[len(found)]
    if len(found):
        assert found[-1] == found[len(found) - 1 :]


def test_different_detections_are_not_equal(found):
    assert found != random_detections(len(found), size=(61, 80))
    assert found != "a text"
    if len(found):
        assert found != random_detections(len(found), seed=1)


def test_coco_gives_the_boxes_back(found):
    results = json.loads(json.dumps(found.to_coco("image 7")))
    corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in results)]
    again = Detections(
        corners, [row["score"] for row in results], [row["category_id"] for row in results], NAMES, found.image_size
    )
    assert again.boxes == pytest.approx(found.boxes, abs=1e-5)
    assert np.array_equal(again.scores, found.scores)
    assert np.array_equal(again.labels, found.labels)
    assert {row["image_id"] for row in results} <= {"image 7"}


def test_coco_category_ids():
    found = random_detections()
    mapped = found.to_coco(1, {0: 44, 1: 45, 2: 90})
    assert [row["category_id"] for row in mapped] == [{0: 44, 1: 45, 2: 90}[label] for label in found.labels.tolist()]
    with pytest.raises(ValueError, match="no entry for label 2"):
        found.to_coco(1, {0: 44, 1: 45})


def test_azure_form(found):
    response = json.loads(json.dumps(found.to_azure()))
    height, width = found.image_size
    keys = ("topX", "topY", "bottomX", "bottomY")
    corners = np.array([[row["box"][key] for key in keys] for row in response["boxes"]]).reshape(-1, 4)
    assert corners * [width, height, width, height] == pytest.approx(found.boxes, abs=1e-4)
    assert [row["label"] for row in response["boxes"]] == found.names
    assert np.array_equal(np.array([row["score"] for row in response["boxes"]], np.float32), found.scores)


def test_azure_form_stays_within_the_image():
    box = Detections([[-5, -5, 100, 100]], [0.5], [0], NAMES, SIZE).to_azure()["boxes"][0]["box"]
    assert box == {"topX": 0.0, "topY": 0.0, "bottomX": 1.0, "bottomY": 1.0}


def test_supervision_gets_its_fields(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **fields: fields))
    fields = found.to_supervision()
    assert np.array_equal(fields["xyxy"], found.boxes)
    assert np.array_equal(fields["confidence"], found.scores)
    assert np.array_equal(fields["class_id"], found.labels)
    assert fields["data"]["class_name"].tolist() == found.names


def test_without_supervision_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        random_detections().to_supervision()


def test_post_processing_results_are_taken(found):
    result = {name: torch.tensor(getattr(found, name)) for name in ("scores", "labels", "boxes")}
    assert Detections.from_post_process(result, NAMES, SIZE) == found


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 150), (480, 640)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 100])
def test_drawing_fits_every_size_and_count(size, count):
    image = Image.new("RGB", size[::-1], (90, 90, 90))
    drawn = random_detections(count, size=size).draw(image)
    assert (drawn.size, drawn.mode) == (image.size, "RGB")
    assert image.getcolors() == [(image.width * image.height, (90, 90, 90))]
    assert (np.array_equal(drawn, image)) == (count == 0)


def test_the_outline_stands_on_the_box_in_the_colour_of_its_class():
    found = Detections([[100, 200, 300, 400]], [0.5], [1], NAMES, (500, 500))
    drawn = found.draw(Image.new("RGB", (500, 500)))
    for corner in [(100, 200), (299, 200), (100, 399), (299, 399)]:
        assert drawn.getpixel(corner) == class_color(1)
    assert drawn.getpixel((200, 300)) == (0, 0, 0)


def test_chips_of_few_boxes_do_not_hide_each_other(monkeypatch):
    boxes = np.array([[100.0, 100, 300, 300]] * 4)
    chips = _chips_drawn(monkeypatch, boxes, range(4), (500, 500))
    assert len(chips) == 4
    assert all(_apart(a, b) for i, a in enumerate(chips) for b in chips[:i])


def test_chips_stay_in_the_image_and_leave_most_of_it_to_be_seen(monkeypatch):
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(0, 400, (200, 2, 2)), axis=1).reshape(-1, 4)
    chips = _chips_drawn(monkeypatch, corners, random.integers(0, 5, 200), (400, 400))
    assert 5 < len(chips) < 100
    assert all(x0 >= 0 and y0 >= 0 and x1 < 400 and y1 < 400 for x0, y0, x1, y1 in chips)
    assert all(_apart(a, b) for i, a in enumerate(chips) for b in chips[:i])
    assert sum((x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in chips) < 400 * 400 / 5


def _chips_drawn(monkeypatch, boxes, labels, size) -> list[tuple[int, int, int, int]]:
    """The rectangles of the chips that `draw_boxes` fills."""
    chips = []
    monkeypatch.setattr(drawing, "_draw_chip", lambda draw, chip, *rest: chips.append(chip))
    scores = np.linspace(0.9, 0.1, len(boxes))
    drawing.draw_boxes(Image.new("RGB", size), boxes, labels, [f"class {label} 0.50" for label in labels], scores)
    return chips


def _apart(a, b) -> bool:
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_class_colours_are_stable_distinct_and_readable():
    colors = [class_color(label) for label in range(21)]
    assert colors == [class_color(np.int64(label)) for label in range(21)]
    assert len(set(colors)) == 21
    for color in colors:
        luminances = sorted(_luminance(c) for c in (color, text_color(color)))
        assert (luminances[1] + 0.05) / (luminances[0] + 0.05) >= 4.5  # WCAG AA


def _luminance(color) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(color) / 255]
    return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="The image is 60x80, the boxes were found in one of 80x60"):
        random_detections().draw(Image.new("RGB", (60, 80)))


@pytest.mark.parametrize("name", ["fridge", "blood_cells"])
def test_the_boxes_of_the_samples_fit_their_images(name):
    coco = json.loads((SAMPLES / "annotations" / f"{name}.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for image in coco["images"]:
        rows = [row for row in coco["annotations"] if row["image_id"] == image["id"]]
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)])
        labels = [row["category_id"] for row in rows]
        size = (image["height"], image["width"])
        truth = Detections(corners, np.ones(len(rows)), labels, names, size)
        assert (corners >= 0).all() and (corners <= [*size[::-1]] * 2).all()
        assert [row["area"] for row in rows] == np.prod(corners[:, 2:] - corners[:, :2], axis=1).tolist()
        assert truth.draw(SAMPLES / "images" / image["file_name"]).size == (image["width"], image["height"])
