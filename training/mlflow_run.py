"""What a training adds to transformers' reports to MLflow: one run for all of it, and drawn validation images."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback

from deformable_detr_refine.data.row_image import row_image
from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage
from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.inference.drawing import draw_boxes

from .arguments import DetectionTrainingArguments

PICTURES = 4
_SIDE = 640


@contextmanager
def mlflow_run(args: DetectionTrainingArguments) -> Iterator[None]:
    """Holds one MLflow run open when `report_to` names mlflow: transformers' own ends with the training, and the
    evaluation after it would begin a second one. A run that is open already is used and left open.

    Raises:
        ValueError: mlflow is not installed.
    """
    chosen = {"MLFLOW_RUN_ID", "MLFLOW_NESTED_RUN"} & set(os.environ)  # transformers opens that one itself
    if "mlflow" not in args.integrations or args.process_index != 0 or chosen:
        yield
        return
    try:
        import mlflow
    except ImportError as error:
        raise ValueError('report_to mlflow needs mlflow: pip install "deformable-detr-refine[mlflow]".') from error
    if mlflow.active_run() is not None:
        yield
        return
    with mlflow.start_run(run_name=args.run_name):
        yield


def log_files(*files: Path) -> None:
    """Adds files to the open run; does nothing when there is none."""
    mlflow = _open_run()
    for file in files if mlflow else ():
        mlflow.log_artifact(str(file))


class MlflowPictures(TrainerCallback):
    """Logs the first validation images with objects after every evaluation: truth on the left, found on the right.

    They are the artifacts validation/NAME/step-00000100.jpg of the run.

    Args:
        trainer: a `DetectionTrainer` with an `eval_dataset`; the callback is to be added to it.
        count: how many images.
        threshold: least score of a box that is drawn.
    """

    def __init__(self, trainer: Any, count: int = PICTURES, threshold: float = THRESHOLD):
        self.trainer, self.count, self.threshold = trainer, count, threshold

    def on_evaluate(self, args, state, control, **kwargs):
        mlflow = _open_run() if state.is_world_process_zero else None
        if mlflow is None:
            return
        rows, id2label = self.trainer.eval_dataset.rows, self.trainer.model.config.id2label
        index_of = {image_id: index for index, image_id in enumerate(rows["image_id"])}
        images = sorted(
            self.trainer.evaluated, key=lambda image: (not len(image.true_labels), index_of[image.image_id])
        )
        for image in images[: self.count]:
            picture = side_by_side(row_image(rows[index_of[image.image_id]]), image, id2label, self.threshold)
            name = re.sub(r"[^0-9A-Za-z_.-]", "_", image.file_name)[-100:]
            mlflow.log_image(picture, artifact_file=f"validation/{name}/step-{state.global_step:08d}.jpg")


def side_by_side(pixels: Image.Image, image: EvaluatedImage, id2label: dict[int, str], threshold: float) -> Image.Image:
    """Draws an image twice, beside each other: what is true, and the boxes above the threshold."""
    scale = min(_SIDE / max(pixels.size), 1)
    small = pixels.resize([max(1, round(side * scale)) for side in pixels.size], Image.Resampling.LANCZOS)
    scales = np.array([small.width / image.size[1], small.height / image.size[0]] * 2)
    kept = image.scores > threshold
    names = [id2label[label] for label in image.true_labels.tolist()]
    truth = draw_boxes(small, image.true_boxes * scales, image.true_labels, names, np.ones(len(names)))
    labels, scores = image.labels[kept], image.scores[kept]
    texts = [f"{id2label[label]} {score:.2f}" for label, score in zip(labels.tolist(), scores, strict=True)]
    detected = draw_boxes(small, image.boxes[kept] * scales, labels, texts, scores)
    both = Image.new("RGB", (2 * small.width + 8, small.height), "white")
    both.paste(truth, (0, 0))
    both.paste(detected, (small.width + 8, 0))
    return both


def _open_run() -> Any:
    """`mlflow`, when it is installed and has a run open."""
    try:
        import mlflow
    except ImportError:
        return None
    return mlflow if mlflow.active_run() is not None else None


__all__ = ["MlflowPictures", "log_files", "mlflow_run", "side_by_side"]
