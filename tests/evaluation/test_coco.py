"""COCO metrics: the numbers of COCOeval run the usual way, and cases that can be counted by hand."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from support.evaluated_images import one_image, random_images

from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage, evaluated_image
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics

TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
LIBRARIES = ("pycocotools", "faster_coco_eval")
NAMES = ("a", "b", "c", "d")


@pytest.fixture(params=LIBRARIES)
def library(request) -> str:
    pytest.importorskip(request.param)
    return request.param


def plain_cocoeval(images, names, folder):
    """pycocotools as its own demonstration runs it: files, loadRes, one run over all classes."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for image in images:
        for (x0, y0, x1, y1), label, crowd, area in zip(
            image.true_boxes.tolist(), image.true_labels, image.true_crowd, image.true_area, strict=True
        ):
            annotation = {"id": len(annotations) + 1, "image_id": image.image_id, "category_id": int(label) + 10}
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": float(area), "iscrowd": int(crowd)}
            annotations.append({**annotation, **box})
        for (x0, y0, x1, y1), score, label in zip(
            image.boxes.tolist(), image.scores.tolist(), image.labels, strict=True
        ):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "score": score, "category_id": int(label) + 10}
            results.append({"image_id": image.image_id, **box})
    data = {
        "images": [{"id": image.image_id} for image in images],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate(names)],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(folder / "truth.json"))
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(folder / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def mean(values) -> float:
    return values[values > -1].mean() if (values > -1).any() else -1.0


@pytest.mark.parametrize("seed", range(6))
def test_the_numbers_are_those_of_cocoeval_run_the_usual_way(seed, library, tmp_path):
    images = random_images(seed)
    plain = plain_cocoeval(images, NAMES, tmp_path)
    metrics = coco_metrics(images, NAMES, library)
    assert [metrics[key] for key in TWELVE] == pytest.approx(plain.stats.tolist(), abs=1e-9)
    assert 0 < metrics["AP"] < metrics["AP50"] < 1
    for k, name in enumerate(NAMES):
        row = metrics["per_class"][name]
        precision, recall = plain.eval["precision"][..., k, 0, 2], plain.eval["recall"][:, k, 0, 2]
        expected = [mean(precision), mean(precision[0]), mean(precision[5]), mean(recall)]
        assert [row[key] for key in ("AP", "AP50", "AP75", "AR100")] == pytest.approx(expected, abs=1e-9)
    assert metrics["per_class"]["d"] == {"AP": -1, "AP50": -1, "AP75": -1, "AR100": -1, "objects": 0}


def test_pycocotools_gives_the_very_same_bits(tmp_path):
    images = random_images(7)
    plain = plain_cocoeval(images, NAMES, tmp_path)
    metrics = coco_metrics(images, NAMES, "pycocotools")
    assert [metrics[key] for key in TWELVE] == plain.stats.tolist()


def test_more_than_100_detections_an_image_are_cut_by_class_as_cocoeval_does(library, tmp_path):
    images = random_images(8, count=10, classes=2, elsewhere=400)
    assert max(len(image.scores) for image in images) > 200
    plain = plain_cocoeval(images, NAMES[:2], tmp_path)
    metrics = coco_metrics(images, NAMES[:2], library)
    assert [metrics[key] for key in TWELVE] == pytest.approx(plain.stats.tolist(), abs=1e-9)


def test_the_order_of_images_does_not_matter(library):
    images = random_images(9)
    assert coco_metrics(images, NAMES, library) == coco_metrics(images[::-1], NAMES, library)


def test_nothing_is_printed(library, capfd):
    coco_metrics(random_images(1), NAMES, library)
    assert capfd.readouterr() == ("", "")


def test_one_of_two_objects_found(library):
    """Recall ends at 1/2 with precision 1: 51 of COCO's 101 recall points (0.00 to 0.50) have precision 1."""
    image = one_image([[0, 0, 40, 40]], true_boxes=[[0, 0, 40, 40], [50, 50, 90, 90]])
    metrics = coco_metrics([image], ["cell"], library)
    assert metrics["AP"] == metrics["AP50"] == metrics["APm"] == pytest.approx(51 / 101)
    assert metrics["AR1"] == metrics["AR100"] == 0.5
    assert metrics["APs"] == metrics["APl"] == metrics["ARs"] == -1
    assert metrics["per_class"]["cell"]["objects"] == 2


def test_a_better_scored_miss_halves_the_precision(library):
    boxes = [[50, 50, 90, 90], [0, 0, 40, 40]]
    metrics = coco_metrics([one_image(boxes, true_boxes=boxes[1:])], ["cell"], library)
    assert metrics["AP"] == pytest.approx(0.5)
    assert (metrics["AR1"], metrics["AR10"]) == (0, 1)


def test_iou_decides_at_each_threshold(library):
    """40x30 of 40x40 is IoU 0.75: right at 0.50 to 0.75, wrong at 0.80 to 0.95."""
    image = one_image([[0, 0, 40, 30]], true_boxes=[[0, 0, 40, 40]])
    metrics = coco_metrics([image], ["cell"], library)
    assert (metrics["AP50"], metrics["AP75"], metrics["AP"]) == pytest.approx((1, 1, 0.6))


def test_a_second_detection_of_one_object_is_wrong(library):
    boxes = [[0, 0, 40, 40], [0, 0, 40, 40]]
    image = one_image(boxes, true_boxes=[[0, 0, 40, 40], [50, 50, 90, 90]])
    late = one_image([*boxes, [50, 50, 90, 90]], true_boxes=[[0, 0, 40, 40], [50, 50, 90, 90]])
    assert coco_metrics([image], ["cell"], library)["AP"] == pytest.approx(51 / 101)
    assert coco_metrics([late], ["cell"], library)["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_crowds_are_neither_right_nor_wrong(library):
    true = {"true_boxes": [[0, 0, 40, 40], [50, 0, 100, 100]], "crowd": [False, True]}
    alone = coco_metrics([one_image([[0, 0, 40, 40]], **true)], ["cell"], library)
    with_crowd = coco_metrics([one_image([[60, 10, 70, 20], [60, 30, 70, 50], [0, 0, 40, 40]], **true)], ["cell"])
    for metrics in (alone, with_crowd):
        assert metrics["AP"] == pytest.approx(1)
        assert metrics["per_class"]["cell"]["objects"] == 1
    only = coco_metrics([one_image([[0, 0, 9, 9]], true_boxes=[[0, 0, 9, 9]], crowd=[True])], ["cell"], library)
    assert only["AP"] == only["AR100"] == only["per_class"]["cell"]["AP"] == -1


def test_no_detections_no_truth_no_images(library):
    true = [[0, 0, 40, 40]]
    missed = coco_metrics([one_image(true_boxes=true)], NAMES, library)
    assert (missed["AP"], missed["AR100"], missed["APs"]) == (0, 0, -1)
    for images in ([one_image(true)], [one_image()], []):
        metrics = coco_metrics(images, NAMES, library)
        assert [metrics[key] for key in TWELVE] == [-1] * 12
        assert list(metrics["per_class"]) == list(NAMES)


def test_what_cannot_be_judged_is_refused():
    image = one_image([[0, 0, 4, 4]], labels=[3], image_id=5)
    with pytest.raises(ValueError, match=r"Image 5 \(5.jpg\): detections have label 3, but there are 2 classes"):
        coco_metrics([image], ["a", "b"])
    with pytest.raises(ValueError, match="true objects have label -1"):
        coco_metrics([one_image(true_boxes=[[0, 0, 4, 4]], true_labels=[-1])], ["a", "b"])
    with pytest.raises(ValueError, match="Image id 5 occurs twice"):
        coco_metrics([image, image], NAMES)
    with pytest.raises(ValueError, match="'a' occurs twice"):
        coco_metrics([image], ["a", "b", "a", "c"])


def test_without_a_library_the_package_is_named(monkeypatch):
    monkeypatch.setattr("deformable_detr_refine.evaluation.metrics.coco.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "deformable-detr-refine\[train\]"'):
        coco_metrics([], NAMES)


def test_an_image_takes_lists_and_tensors_and_refuses_what_does_not_fit():
    torch = pytest.importorskip("torch")
    image = EvaluatedImage(
        3, "a", (5, 6), torch.ones(2, 4, dtype=torch.bfloat16), [1, 0], torch.zeros(2, dtype=torch.int32), [], []
    )
    values = [getattr(image, field.name) for field in dataclasses.fields(image)]
    kinds = [value.dtype.name for value in values if isinstance(value, np.ndarray)]
    assert kinds == ["float32", "float32", "int64", "float64", "int64", "bool", "float64"]
    assert image.true_boxes.shape == (0, 4)
    with pytest.raises(ValueError, match=r"Image 1 \(1.jpg\): boxes has shape \(1, 4\), expected \(2, 4\)"):
        one_image([[0, 0, 1, 1]], scores=[0.5, 0.4])
    with pytest.raises(ValueError, match="scores number 1 is nan"):
        one_image([[0, 0, 1, 1]] * 2, scores=[0.5, np.nan])


def test_a_data_row_becomes_truth_and_its_boxes_come_back_exactly():
    bbox = np.array([[412.8, 157.61, 53.05, 138.01], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
    objects = {"id": [1, 2], "bbox": bbox.tolist(), "category": [0, 2], "area": [13.0, 0.5], "iscrowd": [0, 1]}
    row = {"image_id": 2**60, "file_name": "a.jpg", "width": 640, "height": 480, "objects": objects}
    result = {"boxes": np.zeros((0, 4)), "scores": [], "labels": []}
    image = evaluated_image(result, row)
    assert (image.image_id, image.size) == (2**60, (480, 640))
    corners = image.true_boxes
    assert (np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1) == bbox).all()
    assert (image.true_area.tolist(), image.true_crowd.tolist()) == ([13.0, 0.5], [False, True])
    empty = evaluated_image(result, {**row, "objects": {"bbox": [], "category": []}})
    assert (len(empty.true_labels), empty.true_area.shape, empty.true_crowd.shape) == (0, (0,), (0,))
