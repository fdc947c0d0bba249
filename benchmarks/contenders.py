"""The detectors that are timed beside each other, each with the same two things to do: inference and a training step.

All are R-50, two-stage, 80 classes, dropout 0.1, drawn at random, and see the same pixels; MMDetection has this
package's weights. Stock's loss is its own, which leaves the encoder's proposals out and so has less to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, TypedDict

import torch
from mmdetection import MMDetection
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, TimmBackboneConfig

from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineForObjectDetection

OURS, STOCK, MMDET = "this package", "transformers' own", "MMDetection 3.1.0"
PEERS = {OURS: (STOCK, MMDET)}
SIZES = [
    "d_model",
    "num_queries",
    *(f"{part}_{size}" for part in ("encoder", "decoder") for size in ("layers", "ffn_dim", "attention_heads")),
]
WORK = {"inference": "Inference", "training": "Training step: forward, loss, backward"}


class Batch(TypedDict):
    """What transformers' detectors take, for a training step."""

    pixel_values: torch.Tensor  # (B, 3, height, width)
    pixel_mask: torch.Tensor  # (B, height, width)
    labels: list[dict[str, torch.Tensor]]


def our_detector() -> DeformableDetrRefineForObjectDetection:
    torch.manual_seed(0)
    return DeformableDetrRefineForObjectDetection(DeformableDetrRefineConfig(num_labels=80))


def stock_detector(like: DeformableDetrRefineConfig | None = None) -> DeformableDetrForObjectDetection:
    """Of the sizes of a detector of ours; without one, of the R-50 above."""
    torch.manual_seed(0)
    like = like or DeformableDetrRefineConfig(num_labels=80)
    backbone = {"out_indices": [2, 3, 4], "use_pretrained_backbone": False}
    config = DeformableDetrConfig(
        backbone_config=TimmBackboneConfig(backbone=like.backbone, **backbone),
        two_stage=True,
        with_box_refine=True,
        auxiliary_loss=True,
        attention_dropout=0.1,  # as ours; `dropout` is the same already
        activation_dropout=0.1,
        **{name: getattr(like, name) for name in SIZES},
    )
    config.num_labels = like.num_labels
    return DeformableDetrForObjectDetection(config)


def inputs(height: int, width: int, batch: int = 1) -> Batch:
    """Nothing is padded, each image has ten boxes."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(10, 4, generator=generator) * 0.3 + 0.2
    label = {"class_labels": torch.randint(0, 80, (10,), generator=generator), "boxes": boxes}
    return {
        "pixel_values": torch.randn(batch, 3, height, width, generator=generator),
        "pixel_mask": torch.ones(batch, height, width, dtype=torch.int64),
        "labels": [label] * batch,
    }


class Local:
    """A detector in this process."""

    batch: Batch

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def take(self, batch: Batch) -> None:
        """The batch of all that follows."""
        self.batch = batch

    def inference(self) -> None:
        self._mode(training=False)
        with torch.inference_mode():
            self.model(self.batch["pixel_values"], self.batch["pixel_mask"])

    def training(self) -> None:
        self._mode(training=True)
        self.model.zero_grad()
        self.model(**self.batch).loss.backward()

    def best_scores(self, count: int = 100) -> torch.Tensor:
        """Of the first image, the highest first."""
        self._mode(training=False)
        with torch.inference_mode():
            logits = self.model(self.batch["pixel_values"], self.batch["pixel_mask"]).logits[0]
        return logits.sigmoid().flatten().topk(count).values

    def _mode(self, training: bool) -> None:
        if self.model.training is not training:
            self.model.train(training)


class Missing:
    """A detector that cannot be had here: whatever it is told to do, it says why not."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def take(self, batch: Batch) -> None:
        pass

    def inference(self) -> NoReturn:
        raise ChildProcessError(self.reason)

    training = peak_memory = best_scores = inference


@contextmanager
def mmdetection(model: DeformableDetrRefineForObjectDetection, threads: int) -> Iterator[MMDetection | Missing]:
    """MMDetection with our model's weights, where it can be had."""
    with TemporaryDirectory(prefix="ddetr-bench-") as folder:
        try:
            process = MMDetection(model, Path(folder), threads)
        except OSError as error:  # ChildProcessError is one
            yield Missing(str(error))
            return
        try:
            yield process
        finally:
            process.close()


@contextmanager
def contenders(threads: int, with_mmdetection: bool = True) -> Iterator[dict[str, Local | MMDetection | Missing]]:
    """All by name, stock first and ours last."""
    ours = our_detector()
    with mmdetection(ours, threads) if with_mmdetection else nullcontext(Missing("left out")) as theirs:
        yield {STOCK: Local(stock_detector()), MMDET: theirs, OURS: Local(ours)}
