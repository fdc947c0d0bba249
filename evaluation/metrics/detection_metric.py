"""COCO's metrics as a module of the `evaluate` library: `evaluate.load(metric_path())`, see `metric_path`.

`evaluate` copies this file into its cache and reads its imports with a regular expression: one a line.
"""

import datasets
import evaluate

from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics

DESCRIPTION = "COCO's twelve numbers for object detection, and average precision by class (pycocotools' COCOeval)."
CITATION = """\
@inproceedings{lin2014coco, title={Microsoft COCO: Common Objects in Context}, author={Lin, Tsung-Yi and others},
booktitle={ECCV}, year={2014}}
"""
INPUTS = """\
Args:
    predictions: one dict per image: `boxes` (N, 4), x0, y0, x1, y1 in pixels of the original image, `scores` (N,),
        `labels` (N,), class labels 0 to K-1. Give all that the model finds, without a threshold.
    references: one dict per image, in the same order: `boxes` (M, 4) and `labels` (M,) as above; if there are any,
        `iscrowd` (M,), `area` (M,) in pixels (by which objects are small, medium or large; else that of the box), and
        `image_id` (equal scores are ordered by it; else images count from 0).
    names: for `compute`: the name of each label; "0", "1", ... if left out.

Returns:
    AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl: 0..1, -1 where there is nothing to judge;
    per_class: by name AP, AP50, AP75, AR100 and objects (how many true ones).

Example:
    >>> import evaluate
    >>> from deformable_detr_refine.evaluation import metric_path
    >>> metric = evaluate.load(metric_path())
    >>> metric.add_batch(
    ...     predictions=[{"boxes": [[8, 4, 40, 20]], "scores": [0.75], "labels": [0]}],
    ...     references=[{"boxes": [[8, 4, 40, 20]], "labels": [0]}],
    ... )
    >>> round(metric.compute(names=["can"])["AP"], 6)
    1.0
"""


class DetectionMetric(evaluate.Metric):
    """Registered by `evaluate.load`; its inputs are in `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        boxes = datasets.List(datasets.List(datasets.Value("float64")))
        whole, real = datasets.List(datasets.Value("int64")), datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": {"boxes": boxes, "scores": real, "labels": whole},
                    "references": {
                        "boxes": boxes,
                        "labels": whole,
                        "iscrowd": whole,
                        "area": real,
                        "image_id": datasets.Value("int64"),
                    },
                }
            ),
            reference_urls=["https://cocodataset.org/#detection-eval"],
        )

    def add_batch(self, *, predictions: list[dict], references: list[dict], **kwargs) -> None:
        """Adds images. (`evaluate` appends the inputs to this text.)"""
        if len(predictions) != len(references):
            raise ValueError(
                f"{len(predictions)} predictions came with {len(references)} references; give both by image."
            )
        predictions = [{key: image[key] for key in ("boxes", "scores", "labels")} for image in predictions]
        super().add_batch(predictions=predictions, references=[self._filled(image) for image in references], **kwargs)

    def add(self, *, prediction: dict, reference: dict, **kwargs) -> None:
        """Adds one image."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _filled(self, reference: dict) -> dict:
        number, self._count = getattr(self, "_count", 0), getattr(self, "_count", 0) + 1
        return {
            "boxes": reference["boxes"],
            "labels": reference["labels"],
            "iscrowd": reference.get("iscrowd", [0] * len(reference["labels"])),
            "area": reference.get("area"),
            "image_id": int(reference.get("image_id", number)),
        }

    def _compute(self, predictions, references, names=None) -> dict:
        self._count = 0
        images = [
            EvaluatedImage(
                image_id=reference["image_id"],
                file_name=f"image {reference['image_id']}",
                size=(0, 0),
                **prediction,
                true_boxes=reference["boxes"],
                true_labels=reference["labels"],
                true_crowd=reference["iscrowd"],
                true_area=reference["area"],
            )
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        if names is None:
            labels = [label for image in (*predictions, *references) for label in image["labels"]]
            names = [str(label) for label in range(max(labels, default=-1) + 1)]
        return coco_metrics(images, names)
