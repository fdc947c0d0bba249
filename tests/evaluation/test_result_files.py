"""Files of an evaluation: read back, they hold the numbers."""

import csv
import json

import numpy as np
from support.evaluated_images import one_image, random_images

from deformable_detr_refine.evaluation.metrics.azure import azure_metrics
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
from deformable_detr_refine.evaluation.report.result_files import write_detections, write_metrics, write_per_class


def test_metrics_come_back(tmp_path):
    images = random_images(2)
    names = ["a", 'b "c", d', "été", "e\nf"]
    metrics = {**coco_metrics(images, names), "azure": azure_metrics(images, names), "about": {}}
    write_metrics(tmp_path / "m.json", metrics)
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert json.loads(text) == metrics
    assert "été" in text and max(map(len, text.splitlines())) < 120

    per_label = metrics["azure"]["per_label_metrics"]
    write_per_class(tmp_path / "c.csv", metrics["per_class"], per_label, [4, 1, 9, None])
    with (tmp_path / "c.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == names
    assert [row["category_id"] for row in rows] == ["4", "1", "9", ""]
    assert float(rows[1]["recall"]) == round(per_label[names[1]]["recall"], 6)
    assert rows[3]["AP"] == "" and rows[3]["objects"] == "0"


def test_detections_keep_every_bit_of_float32(tmp_path):
    images = random_images(6, count=9)
    ids = [5, None, 2, 8]
    written = write_detections(tmp_path / "d.json", images, ids)
    results = json.loads((tmp_path / "d.json").read_text())
    assert len(results) == written == sum(int((image.labels != 1).sum()) for image in images)
    for image in images:
        kept = image.labels != 1
        mine = [result for result in results if result["image_id"] == image.image_id]
        assert [result["category_id"] for result in mine] == [ids[label] for label in image.labels[kept]]
        assert (np.array([result["score"] for result in mine], dtype=np.float32) == image.scores[kept]).all()
        boxes = np.array([result["bbox"] for result in mine]).reshape(-1, 4)
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], image.boxes[kept][:, 2:], atol=1e-4)


def test_no_detections_are_an_empty_list(tmp_path):
    for images in ([], [one_image()]):
        assert write_detections(tmp_path / "d.json", images, [0]) == 0
        assert json.loads((tmp_path / "d.json").read_text()) == []
