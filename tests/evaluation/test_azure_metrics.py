"""Azure's metrics, counted by hand where that can be done."""

import json
import os

import numpy as np
import pytest
from support.evaluated_images import one_image, random_images

from deformable_detr_refine.evaluation.metrics.azure import METRICS, AzureEvaluation, azure_metrics

pytest.importorskip("pycocotools")

A, B, C = [0, 0, 40, 40], [50, 50, 90, 90], [0, 60, 30, 90]
NAMES = ("can", "carton")


def test_the_curve_of_four_detections_of_three_objects():
    """Right, wrong, right, wrong: precision 1, 1/2, 2/3, 2/4 at recall 1/3, 1/3, 2/3, 2/3; area 1/3 * 1 + 1/3 * 2/3."""
    image = one_image([A, A, B, [90, 0, 99, 9]], true_boxes=[A, B, C])
    metrics = azure_metrics([image], ["can"])
    can = {"average_precision": 1 / 3 + 2 / 9, "precision": 0.5, "recall": 2 / 3}
    assert metrics["per_label_metrics"]["can"] == pytest.approx(can)
    assert metrics["mean_average_precision"] == pytest.approx(5 / 9)
    assert (metrics["precision"], metrics["recall"]) == pytest.approx((0.5, 2 / 3))


def test_low_scores_are_dropped_first():
    image = one_image([A, B], scores=[0.9, 0.3], true_boxes=[A, B])
    assert azure_metrics([image], ["can"])["recall"] == 0.5
    assert azure_metrics([image], ["can"], AzureEvaluation(box_score_threshold=0.29))["recall"] == 1


def test_a_detection_goes_to_the_nearest_object_even_if_it_is_taken():
    """COCO would give the second detection to the other object, with which its IoU is 0.6 too."""
    true = [[0, 0, 40, 40], [0, 8, 40, 48]]
    image = one_image([[0, 0, 40, 40], [0, 3, 40, 43]], true_boxes=true)
    assert azure_metrics([image], ["can"])["recall"] == 0.5


def test_the_iou_threshold_is_reached_or_not():
    image = one_image([[0, 0, 40, 30]], true_boxes=[A])
    recall = [azure_metrics([image], ["can"], AzureEvaluation(iou_threshold=t))["recall"] for t in (0.75, 0.76)]
    assert recall == [1, 0]


def test_crowds_count_neither_way():
    image = one_image([A, [50, 50, 60, 60], [60, 60, 70, 70]], true_boxes=[A, B], crowd=[False, True])
    metrics = azure_metrics([image], ["can"])
    assert metrics["per_label_metrics"]["can"] == {"average_precision": 1, "precision": 1, "recall": 1}
    assert metrics["confusion_matrices_per_score_threshold"]["0.0"] == [[1, 0]]


def test_undefined_values_are_left_out_of_means():
    names = ["found", "missed", "invented", "absent"]
    image = one_image([A, B], labels=[0, 2], true_boxes=[A, C], true_labels=[0, 1])
    metrics = azure_metrics([image], names)
    rows = {name: tuple(row.values()) for name, row in metrics["per_label_metrics"].items()}
    expected = {"found": (1, 1, 1), "missed": (0, -1, 0), "invented": (-1, 0, -1), "absent": (-1, -1, -1)}
    assert rows == expected
    means = (metrics["mean_average_precision"], metrics["precision"], metrics["recall"])
    assert means == (0.5, 0.5, 0.5)


def test_an_image_is_right_with_its_first_right_detection():
    images = [
        one_image([B, A], scores=[0.9, 0.6], true_boxes=[A], image_id=1),  # wrong, then right
        one_image([A], scores=[0.8], true_boxes=[A], image_id=2),
        one_image([A], scores=[0.7], true_boxes=[B], image_id=3),
        one_image(true_boxes=[A], image_id=4),
        one_image([C], scores=[0.5], image_id=5),
        one_image(image_id=6),
    ]
    # By score: image 1 wrong, 2 right, 3 wrong, 1 right after all, 5 wrong: 2 of 4 images with objects are found.
    row = azure_metrics(images, ["can"])["image_level_binary_classsifier_metrics"]
    assert row == pytest.approx({"average_precision": 0.25 * 2 / 3 + 0.25 * 2 / 3, "precision": 0.5, "recall": 0.5})


def test_confusion_matrices_count_labels_found_at_each_score():
    image = one_image(
        [A, B, [90, 0, 99, 9]],
        scores=[0.75, 0.55, 0.9],
        labels=[0, 0, 1],
        true_boxes=[A, B, C],
        true_labels=[0, 1, 1],
    )
    matrices = azure_metrics([image], NAMES)["confusion_matrices_per_score_threshold"]
    assert list(matrices) == [f"0.{i}" for i in range(10)]
    assert all(matrices[f"0.{i}"] == [[1, 0, 0], [1, 0, 1]] for i in range(6))
    assert matrices["0.6"] == matrices["0.7"] == [[1, 0, 0], [0, 0, 2]]
    assert matrices["0.8"] == [[0, 0, 1], [0, 0, 2]]


def test_rows_of_every_matrix_sum_to_the_objects_and_order_does_not_matter():
    images = random_images(11)
    metrics = azure_metrics(images, "abcd")
    assert metrics == azure_metrics(images[::-1], "abcd")
    objects = np.bincount(np.concatenate([i.true_labels[~i.true_crowd] for i in images]), minlength=4)
    for matrix in metrics["confusion_matrices_per_score_threshold"].values():
        assert np.sum(matrix, axis=1).tolist() == objects.tolist()
        assert np.min(matrix) >= 0
    for name in ("mean_average_precision", "precision", "recall"):
        assert 0 < metrics[name] < 1
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize("images", [[], [one_image()], [one_image([A], scores=[0.1])]])
def test_nothing_to_judge(images):
    metrics = azure_metrics(images, NAMES)
    assert (metrics["mean_average_precision"], metrics["precision"], metrics["recall"]) == (0, 0, 0)
    assert set(metrics["image_level_binary_classsifier_metrics"].values()) == {-1}
    assert metrics["confusion_matrices_per_score_threshold"]["0.0"] == [[0, 0, 0]] * 2


def test_the_config_file_of_azures_component(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"metrics": ["recall", "per_label_metrics"], "iou_threshold": 0.6}))
    settings = AzureEvaluation.from_file(file)
    assert (settings.iou_threshold, settings.box_score_threshold) == (0.6, 0.3)
    assert set(azure_metrics([one_image()], NAMES, settings)) == {"recall", "per_label_metrics"}
    file.write_text(json.dumps({"metrics": list(METRICS), "iou_threshold": 0.5, "box_score_threshold": 0.3}))
    assert AzureEvaluation.from_file(file) == AzureEvaluation()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a JSON list"),
        ("[" * 100_000, "is not JSON: maximum recursion depth"),
        ('{"metrics": "recall"}', "a list 'metrics'"),
        ('{"metrics": ["f1"]}', "Azure has no metric 'f1'"),
        ('{"iou": 0.5}', "unknown setting 'iou'; there are metrics, iou_threshold, box_score_threshold"),
        ('{"iou_threshold": 1.5}', "iou_threshold is 1.5, expected a number from 0 to 1"),
        ('{"box_score_threshold": "0.3"}', "box_score_threshold is '0.3'"),
    ],
)
def test_a_wrong_config_is_told_with_its_file(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        AzureEvaluation.from_file(tmp_path / "config.json")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in its folders")
def test_a_pipe_is_no_config(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match="what is there is none \\(a pipe, a device"):
        AzureEvaluation.from_file(tmp_path / "config.json")
