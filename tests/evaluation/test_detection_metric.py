"""The `evaluate` module: loaded by path without a network, it gives the numbers of coco_metrics."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.evaluated_images import random_images

from deformable_detr_refine.evaluation import metric_path
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics

evaluate = pytest.importorskip("evaluate")


@pytest.fixture
def metric(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path)
    return evaluate.load(metric_path(), cache_dir=str(tmp_path))


def both_sides(images) -> tuple[list[dict], list[dict]]:
    predictions = [{"boxes": i.boxes, "scores": i.scores, "labels": i.labels} for i in images]
    references = [
        {
            "boxes": i.true_boxes,
            "labels": i.true_labels,
            "iscrowd": i.true_crowd.astype(int),
            "area": i.true_area,
            "image_id": i.image_id,
        }
        for i in images
    ]
    return predictions, references


def test_batches_give_the_numbers_of_coco_metrics(metric):
    images = random_images(4)
    for start in range(0, len(images), 7):
        predictions, references = both_sides(images[start : start + 7])
        metric.add_batch(predictions=predictions, references=references)
    assert metric.compute(names=list("abcd")) == coco_metrics(images, "abcd")


def test_one_call_one_by_one_and_the_next_round(metric):
    images = random_images(5, count=8)
    predictions, references = both_sides(images)
    expected = coco_metrics(images, ["0", "1", "2", "3"])
    assert metric.compute(predictions=predictions, references=references) == expected
    for prediction, reference in zip(predictions, references, strict=True):
        tensors = {key: torch.tensor(np.asarray(value)) for key, value in reference.items()}
        metric.add(prediction=prediction, reference={**tensors, "orig_size": (4, 4)})
    assert metric.compute() == expected


def test_what_may_be_left_out(metric):
    box = [[0.0, 0.0, 20.0, 20.0]]
    for _ in range(2):
        found = {"boxes": box, "scores": [0.5], "labels": [1]}
        metric.add_batch(
            predictions=[found, {"boxes": [], "scores": [], "labels": []}],
            references=[{"boxes": box, "labels": [1]}, {"boxes": [], "labels": []}],
        )
        metrics = metric.compute()
        assert (metrics["AP"], metrics["APs"], metrics["APm"]) == pytest.approx((1, 1, -1))
        assert metrics["per_class"]["0"]["objects"] == 0
    with pytest.raises(ValueError, match="1 predictions came with 0 references"):
        metric.add_batch(predictions=[found], references=[])


@pytest.mark.slow
def test_it_loads_without_a_network_and_without_this_process_cache(tmp_path):
    code = (
        "import socket; socket.socket.connect = None\n"
        "import evaluate; from deformable_detr_refine.evaluation import metric_path\n"
        "print(evaluate.load(metric_path()).inputs_description)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "predictions: one dict per image" in run.stdout, run.stderr


def test_its_imports_are_one_a_line():
    text = Path(metric_path()).read_text(encoding="utf-8")
    imports = [line for line in text.splitlines() if re.match(r"\s*(import|from)\s.*", line) and ">>>" not in line]
    assert len(imports) == 4
    assert not any("," in line or "(" in line for line in imports)


def test_its_example(metric):
    from deformable_detr_refine.evaluation.metrics import detection_metric

    example = doctest.DocTestParser().get_doctest(detection_metric.INPUTS, {}, "inputs", None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
