"""The trained detector's AP on the device and on the CPU."""

import time
from functools import partial
from typing import Any

import torch

from deformable_detr_refine.data.formats.load import load_detection_data
from deformable_detr_refine.data.label_map import LabelMap
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
from deformable_detr_refine.evaluation.predict import predict
from deformable_detr_refine.inference.load_model import load_model, load_processor

from .measure import autocast, tf32
from .report import SAMPLES, Report, Session

# How far another way's AP may be from the CPU's fp32; and images, of which the CPU takes 2 to 10 a second.
ALLOWED = {"float32": 0.002, "TF32": 0.005, "bfloat16": 0.015}
MOST_IMAGES = 100


def run(session: Session, report: Report) -> None:
    folder = session.trained if (session.trained / "model.safetensors").is_file() else SAMPLES / "blood-cells"
    processor, classes = load_processor(folder), LabelMap.from_config(load_model(folder).config)
    data = load_detection_data(session.data or SAMPLES / "annotations" / "blood_cells.json", label_map=classes)
    rows = data.splits.get("validation") or data["train"]
    rows = rows.select(range(min(len(rows), 1 if session.tiny else MOST_IMAGES)))
    report.table(f"{folder.name}, {len(rows)} images", "", "AP", "AP50", "images/s")
    way = partial(_evaluated, folder, processor, rows, list(classes.names), report)
    found = {name: way(session.device, name) for name in ALLOWED}
    expected = way("cpu", "float32 on the CPU")
    for name, ap in found.items():
        if not abs(ap - expected) <= ALLOWED[name]:
            report.wrong(f"AP in {name} is {ap:.4f} on the device, and {expected:.4f} on the CPU.")


def _evaluated(
    folder: Any, processor: Any, rows: Any, names: list[str], report: Report, device: str, way: str
) -> float:
    model = load_model(folder).to(device)
    start = time.perf_counter()
    with tf32(way != "float32"), autocast(device, torch.bfloat16 if way == "bfloat16" else torch.float32):
        images = list(predict(model, processor, rows, batch_size=1 if device == "cpu" else 8))
    seconds = time.perf_counter() - start
    metrics = coco_metrics(images, names)
    report.row(way, f"{metrics['AP']:.4f}", f"{metrics['AP50']:.4f}", len(rows) / seconds)
    return metrics["AP"]
