"""What our model computes, in the form of `difference`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deformable_detr_refine.inference.comparison import RawDetections
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor

from .difference import TOLERANCE, Prediction, compare, matching_order
from .report import SamePixels


@dataclass(frozen=True)
class OurModel:
    """A model folder, loaded in fp32 on the CPU, where the other side computes too."""

    model: DeformableDetrRefineForObjectDetection
    processor: DeformableDetrRefineImageProcessor
    detections: int

    def predict(self, pixel_values: Tensor, pixel_mask: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """pixel_values (B, 3, height, width), pixel_mask (B, height, width); sizes (height, width) of the originals."""
        forward = torch.inference_mode()(lambda inputs: self.model(*inputs, output_hidden_states=True))
        network = Network(forward, self.processor, self.model.config.id2label)
        outputs, detections = network.run((pixel_values, pixel_mask), sizes, top_k=self.detections)
        return [
            Prediction(
                references=outputs.initial_reference_points[n].numpy(),
                logits=outputs.intermediate_logits[:, n].numpy(),
                boxes=outputs.intermediate_pred_boxes[:, n].numpy(),
                found=RawDetections(*(detections[n][name].numpy() for name in ("boxes", "scores", "labels"))),
                image_size=(sizes[n][0], sizes[n][1]),
            )
            for n in range(len(sizes))
        ]

    def prepare(self, resized: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Normalises and pads images (h, w, 3) of uint8 RGB that are resized already."""
        images = [torch.from_numpy(image).permute(2, 0, 1) for image in resized]
        inputs = self.processor(images=images, do_resize=False, return_tensors="pt")
        return inputs["pixel_values"], inputs["pixel_mask"]

    def resize(self, image: Any) -> np.ndarray:
        """An image as the processor's resizing leaves it: (h, w, 3), uint8 RGB."""
        inputs = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="pt")
        return inputs["pixel_values"][0].permute(1, 2, 0).numpy()

    def compared(
        self,
        image: str,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        index: int,
        pixel_difference: float,
        ours: Prediction,
        theirs: Prediction,
    ) -> SamePixels:
        """The row of image `index` of a batch that both sides computed."""
        two_stage = self.model.config.two_stage
        difference = compare(ours, theirs, TOLERANCE, match_queries=two_stage)
        tie = None
        if not difference.same_starts and two_stage:
            tie = self.score_gap(pixel_values, pixel_mask, index, ours, theirs)
        height, width = pixel_values.shape[-2:]
        return SamePixels(image, (height, width), pixel_difference, difference, tie)

    @torch.no_grad()
    def score_gap(
        self, pixel_values: Tensor, pixel_mask: Tensor, index: int, ours: Prediction, theirs: Prediction
    ) -> float:
        """How far the scores (logits) of those starts of image `index` that only one side chose are apart, at most.

        Both sides rank the same tokens and keep the best; where they disagree only by rounding, what one chose and the
        other left has the score of the last one kept.
        """
        outputs = self.model(pixel_values, pixel_mask, output_proposals=True)
        scores, places = outputs.encoder_logits[index, :, 0].numpy(), outputs.encoder_pred_boxes[index].numpy()
        order = matching_order(ours.references, theirs.references)
        apart = np.abs(ours.references - theirs.references[order]).max(-1) > 1e-4
        only_one = np.concatenate((ours.references[apart], theirs.references[order][apart]))
        tokens = [int(np.abs(places - place).max(-1).argmin()) for place in only_one]
        return float(np.ptp(scores[tokens])) if tokens else 0.0


__all__ = ["OurModel"]
