"""Other packages take the detector, and what they give is what it finds."""

from pathlib import Path

import numpy as np
import pytest

from deformable_detr_refine.inference import Detector

SAMPLES = Path(__file__).parents[2] / "samples"
PHOTO = SAMPLES / "images" / "BloodImage_00053.jpg"


@pytest.fixture(scope="module")
def found():
    (found,) = Detector(SAMPLES / "blood-cells").detect([PHOTO], threshold=0.39)
    assert len(found) > 10
    return found


def test_supervision_takes_what_was_found(found):
    pytest.importorskip("supervision")
    boxes = found.to_supervision()
    assert np.array_equal(boxes.xyxy, found.boxes)
    assert np.array_equal(boxes.confidence, found.scores)
    assert boxes[boxes.class_id == 1].data["class_name"].tolist() == found[found.labels == 1].names


def test_sahi_finds_the_same_boxes(found):
    sahi = pytest.importorskip("sahi")
    predict = pytest.importorskip("sahi.predict")
    model = sahi.AutoDetectionModel.from_pretrained(
        "huggingface", model_path=str(SAMPLES / "blood-cells"), confidence_threshold=0.39, device="cpu"
    )
    objects = predict.get_prediction(str(PHOTO), model).object_prediction_list
    objects = sorted(objects, key=lambda thing: -thing.score.value)
    assert [thing.category.name for thing in objects] == found.names
    assert [thing.score.value for thing in objects] == pytest.approx(found.scores, abs=1e-6)
    assert np.array([thing.bbox.to_xyxy() for thing in objects]) == pytest.approx(found.boxes, abs=1e-3)
    # One slice as large as the photo is the photo.
    sliced = predict.get_sliced_prediction(
        str(PHOTO), model, slice_height=480, slice_width=640, perform_standard_pred=False, verbose=0
    )
    assert {thing.category.name for thing in sliced.object_prediction_list} == set(found.names)
    assert max(thing.score.value for thing in sliced.object_prediction_list) == pytest.approx(found.scores[0])
