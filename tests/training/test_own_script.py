"""transformers' object-detection guide with this model and processor: its data, its Trainer, its metrics."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from torchvision.ops import box_convert
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, Trainer, TrainingArguments

from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics

SIDE = 384  # the photos become as large as those that the detector was trained on


@pytest.fixture(scope="module")
def photos(samples):
    """The blood cell photos as the guide has its data: image_id, image, and objects with COCO's boxes."""
    coco = json.loads((samples.parent / "annotations" / "blood_cells.json").read_text(encoding="utf-8"))
    label2id = AutoConfig.from_pretrained(samples.parent / "blood-cells").label2id
    label_of = {category["id"]: label2id[category["name"]] for category in coco["categories"]}
    rows = []
    for image in coco["images"]:
        drawn = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        objects = {"bbox": [a["bbox"] for a in drawn], "category": [label_of[a["category_id"]] for a in drawn]}
        rows.append({"image_id": image["id"], "image": str(samples / image["file_name"]), "objects": objects})
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


@pytest.fixture(scope="module")
def processor(samples):
    return square_processor(samples, SIDE)


def square_processor(samples, side):
    sizes = {"size": {"max_height": side, "max_width": side}, "pad_size": {"height": side, "width": side}}
    return AutoImageProcessor.from_pretrained(samples.parent / "blood-cells", do_resize=True, do_pad=True, **sizes)


@pytest.fixture
def model(samples):
    return AutoModelForObjectDetection.from_pretrained(samples.parent / "blood-cells")


def with_transform(photos, processor, transform=None, keep_mask=False):
    """Every example through an albumentations-like transform and the processor; the guide drops the pixel mask."""

    def apply(examples):
        images, annotations = [], []
        for number, image, objects in zip(examples["image_id"], examples["image"], examples["objects"], strict=True):
            row = {"image": np.array(image), "bboxes": objects["bbox"], "category": objects["category"]}
            row = transform(**row) if transform else row
            images.append(row["image"])
            pairs = zip(row["bboxes"], row["category"], strict=True)
            boxes = [{"bbox": list(box), "category_id": label, "iscrowd": 0} for box, label in pairs]
            annotations.append({"image_id": np.int64(number), "annotations": boxes})
        features = processor(images=images, annotations=annotations, return_tensors="pt")
        if not keep_mask:
            features.pop("pixel_mask")
        return features

    return photos.with_transform(apply)


def collate(batch):
    stacked = {name: torch.stack([row[name] for row in batch]) for name in batch[0] if name != "labels"}
    return {**stacked, "labels": [row["labels"] for row in batch]}


def detections_and_truth(predictions, labels, processor):
    """Reads what the guide's compute_metrics reads, at the places where it does."""
    found, truth = [], []
    for batch, targets in zip(predictions, labels, strict=True):
        sizes = torch.tensor(np.stack([target["orig_size"] for target in targets]))
        outputs = SimpleNamespace(logits=torch.tensor(batch[1]), pred_boxes=torch.tensor(batch[2]))
        found += processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        for target, (height, width) in zip(targets, sizes.tolist(), strict=True):
            pixels = torch.tensor(target["boxes"]) * torch.tensor([width, height] * 2)
            boxes = box_convert(pixels, "cxcywh", "xyxy")
            truth.append({"boxes": boxes, "labels": torch.tensor(target["class_labels"])})
    return found, truth


def average_precision(found, truth, names):
    images = [
        EvaluatedImage(number, f"{number}", (480, 640), f["boxes"], f["scores"], f["labels"], t["boxes"], t["labels"])
        for number, (f, t) in enumerate(zip(found, truth, strict=True))
    ]
    return coco_metrics(images, names)["AP"]


def arguments(folder, **others):
    # Three photos in one batch: accelerate cuts every tensor of the labels in an incomplete last batch.
    return TrainingArguments(
        folder, report_to="none", remove_unused_columns=False, eval_do_concat_batches=False, use_cpu=True,
        per_device_train_batch_size=2, per_device_eval_batch_size=3, disable_tqdm=True, **others,
    )  # fmt: skip


def test_evaluation_reads_logits_and_boxes_where_the_guide_does(model, processor, photos, tmp_path):
    results = {}
    for keep_mask in (False, True):
        seen = []
        trainer = Trainer(
            model,
            arguments(tmp_path),
            data_collator=collate,
            processing_class=processor,
            eval_dataset=with_transform(photos, processor, keep_mask=keep_mask),
            compute_metrics=lambda result, seen=seen: seen.append(result) or {},
        )
        metrics = trainer.evaluate()
        (result,) = seen
        assert np.isfinite(metrics["eval_loss"]) and "loss_cls" in result.predictions[0][0]
        results[keep_mask] = detections_and_truth(result.predictions, result.label_ids, processor)
    found, truth = results[False]
    for without, with_mask in zip(found, results[True][0], strict=True):
        assert torch.equal(without["boxes"], with_mask["boxes"])
    names = list(model.config.id2label.values())
    ap = average_precision(found, truth, names)
    assert ap > 0.4
    torchmetrics = pytest.importorskip("torchmetrics.detection")
    metric = torchmetrics.MeanAveragePrecision(box_format="xyxy", class_metrics=True)
    metric.update(found, truth)
    assert metric.compute()["map"].item() == pytest.approx(ap, abs=1e-4)


def test_training_with_evaluation_after_each_epoch(model, samples, photos, tmp_path):
    processor = square_processor(samples, 128)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(
        model,
        arguments(tmp_path, num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch",
                  load_best_model_at_end=True, metric_for_best_model="images", learning_rate=1e-5),
        data_collator=collate,
        processing_class=processor,
        train_dataset=with_transform(photos, processor, flip),
        eval_dataset=with_transform(photos, processor),
        compute_metrics=lambda result: {"images": sum(map(len, result.label_ids))},
    )  # fmt: skip
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2 and np.isfinite(losses).all() and trainer.state.best_metric == 3
    trainer.save_model(tmp_path / "trained")
    trained = AutoModelForObjectDetection.from_pretrained(tmp_path / "trained")
    assert any(not torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert AutoImageProcessor.from_pretrained(tmp_path / "trained").size == processor.size


def flip(image, bboxes, category):
    """To the left, as albumentations gives it: an array, and boxes as numpy rows."""
    boxes = np.asarray(bboxes, dtype=np.float32).reshape(-1, 4)
    boxes[:, 0] = image.shape[1] - boxes[:, 0] - boxes[:, 2]
    return {"image": np.ascontiguousarray(image[:, ::-1]), "bboxes": boxes, "category": category}


def test_albumentations_gives_what_the_processor_takes(processor, photos):
    albumentations = pytest.importorskip("albumentations")
    transform = albumentations.Compose(
        [albumentations.HorizontalFlip(p=1.0), albumentations.RandomBrightnessContrast(p=0.5)],
        bbox_params=albumentations.BboxParams(format="coco", label_fields=["category"], clip=True, min_area=25),
    )
    theirs, ours = (with_transform(photos, processor, change)[0]["labels"] for change in (transform, flip))
    assert torch.equal(theirs["class_labels"], ours["class_labels"])
    torch.testing.assert_close(theirs["boxes"], ours["boxes"], rtol=0, atol=1e-5)
