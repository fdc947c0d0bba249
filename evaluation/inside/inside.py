"""What a detector does with an image, layer by layer: where it samples, what it proposes, how boxes move.

H heads, L levels, P points, Q queries, S tokens, K classes. All coordinates are pixels of the original, upright image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deformable_detr_refine.inference.detections import THRESHOLD
from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling import (
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
    load_image,
)
from deformable_detr_refine.modeling.boxes import cxcywh_to_xyxy


@dataclass(frozen=True)
class AttentionSamples:
    """Where one query or token samples the image in every layer, and how much each sample counts.

    A head's weights sum to 1 over its levels and points.
    """

    points: np.ndarray  # (layers, H, L, P, 2), x and y in pixels
    weights: np.ndarray  # (layers, H, L, P)

    def centre(self) -> np.ndarray:
        """The mean of the points of each layer by their weights, (layers, 2)."""
        weights = self.weights[..., None]
        return (self.points * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))

    def level_shares(self) -> np.ndarray:
        """How much of a layer's weight goes to each level, (layers, L)."""
        return self.weights.sum((1, 3)) / self.weights.sum((1, 2, 3))[:, None]


@dataclass(frozen=True)
class RankedProposals:
    """The first stage's answer at every token, best first; the first Q become the decoder's queries, in this order."""

    boxes: np.ndarray  # (S, 4), xyxy
    scores: np.ndarray  # (S,), 0..1
    tokens: np.ndarray  # (S,), which token proposes


@dataclass(frozen=True, eq=False)
class Inside:
    """One image's way through a detector, as `look_inside` gives it."""

    image: Image.Image
    id2label: Mapping[int, str]
    level_shapes: tuple[tuple[int, int], ...]  # (h, w) of each level, padding too
    outputs: Mapping[str, Any] = field(repr=False)  # the model's, of this image alone
    valid_ratios: Tensor = field(repr=False)  # (L, 2)
    centres: Tensor = field(repr=False)  # (S, 2), 0..1 of the image
    refines: bool = True  # whether a decoder layer starts from the box of the one before

    @cached_property
    def layer_boxes(self) -> np.ndarray:
        """What every decoder layer predicts, (layers, Q, 4) xyxy; it may stand over the image's edge."""
        return self._boxes(self.outputs["intermediate_pred_boxes"])

    @cached_property
    def layer_scores(self) -> np.ndarray:
        """(layers, Q, K), 0..1."""
        return self.outputs["intermediate_logits"].float().sigmoid().numpy()

    @cached_property
    def start(self) -> np.ndarray:
        """Where the decoder starts: (Q, 4) xyxy boxes of the first stage or, without one, (Q, 2) points."""
        reference = self.outputs["initial_reference_points"]
        return self._boxes(reference) if reference.shape[-1] == 4 else (reference.float() * self._size).numpy()

    @cached_property
    def proposals(self) -> RankedProposals | None:
        """The first stage's; None for a detector without one."""
        logits = self.outputs.get("encoder_logits")
        if logits is None:
            return None
        scores, order = logits[:, 0].float().sort(descending=True, stable=True)
        # The model's own choice stands first, whatever it did with equal scores.
        queries = self._tokens_of_queries()
        order = torch.cat((queries, order[~torch.isin(order, queries)]))
        scores = logits[order, 0].float().sigmoid()
        return RankedProposals(self._boxes(self.outputs["encoder_pred_boxes"][order]), scores.numpy(), order.numpy())

    def anchor(self, query: int) -> np.ndarray | None:
        """The box (4,), xyxy, that the first stage turned into a query's proposal: its token's; None without one."""
        if self.proposals is None:
            return None
        token = int(self.proposals.tokens[query])
        ends = np.cumsum([h * w for h, w in self.level_shapes])
        side = torch.tensor(0.05 * 2 ** int(np.searchsorted(ends, token, side="right")))
        return self._boxes(torch.cat((self.centres[token], side.expand(2))))

    def layer_starts(self, query: int) -> list[np.ndarray]:
        """What each decoder layer looks around: an xyxy box (4,), or a point (2,) where there is no box yet."""
        start = self.start[query]
        return [start, *self.layer_boxes[:-1, query]] if self.refines else [start] * len(self.layer_boxes)

    def best_queries(self, threshold: float = THRESHOLD) -> list[int]:
        """The queries whose last box has a score above `threshold`, best first."""
        scores = self.layer_scores[-1].max(-1)
        return [int(query) for query in np.argsort(-scores, kind="stable") if scores[query] > threshold]

    def label(self, query: int) -> int:
        """The class that the last layer gives to a query."""
        return int(self.layer_scores[-1, query].argmax())

    def query_samples(self, query: int) -> AttentionSamples:
        """Where a query of the decoder looks.

        Raises:
            ValueError: there is no such query.
        """
        if not 0 <= query < len(self.start):
            raise ValueError(f"There is no query {query}: the detector has {len(self.start)}, from 0 on.")
        return self._samples("decoder", query)

    def token_samples(self, token: int) -> AttentionSamples:
        """Where a token of the encoder looks."""
        return self._samples("encoder", token)

    def token_at(self, x: float, y: float, level: int) -> int:
        """The token of a level (0 is the finest) whose cell holds the point (x, y).

        Raises:
            ValueError: the point is outside the image, or there is no such level.
        """
        if not (0 <= x <= self.image.width and 0 <= y <= self.image.height):
            raise ValueError(f"The point {x:g}, {y:g} is outside the image of {self.image.width}x{self.image.height}.")
        if not 0 <= level < len(self.level_shapes):
            raise ValueError(f"There is no level {level}: the detector has {len(self.level_shapes)}, from 0 on.")
        sizes = [h * w for h, w in self.level_shapes]
        first = sum(sizes[:level])
        centres = self.centres[first : first + sizes[level]]
        return first + int((centres * self._size - torch.tensor([x, y])).pow(2).sum(-1).argmin())

    def token_centre(self, token: int) -> tuple[float, float]:
        """Where a token's cell has its centre."""
        return tuple((self.centres[token] * self._size).tolist())

    def _samples(self, part: str, index: int) -> AttentionSamples:
        points = torch.stack([layer[index] for layer in self.outputs[f"{part}_sampling_locations"]]).float()
        attentions = self.outputs["encoder_attentions" if part == "encoder" else "cross_attentions"]
        weights = torch.stack([layer[index] for layer in attentions]).float()
        # Locations are 0..1 of a padded level, of which the image takes the part that valid_ratios says.
        pixels = points / self.valid_ratios[None, None, :, None] * self._size
        return AttentionSamples(pixels.numpy(), weights.numpy())

    def _tokens_of_queries(self) -> Tensor:
        """The token that each query came from, (Q,)."""
        count = len(self.outputs["initial_reference_points"])
        return self.outputs["encoder_logits"][:, 0].topk(count).indices

    def _boxes(self, boxes: Tensor) -> np.ndarray:
        return (cxcywh_to_xyxy(boxes.float()) * self._size.repeat(2)).numpy()

    @property
    def _size(self) -> Tensor:
        return torch.tensor([self.image.width, self.image.height], dtype=torch.float32)


def look_inside(
    model: DeformableDetrRefineForObjectDetection, processor: DeformableDetrRefineImageProcessor, images: Sequence[Any]
) -> list[Inside]:
    """Runs a detector on images, in one batch, and keeps what happens in every layer.

    A sample of an encoder layer takes 12 bytes, and there are tokens x heads x levels x points of them: 205 MB an image
    with six layers at 800x1333.

    Args:
        model: in evaluation mode (so that dropout does not change what is seen), on any device.
        processor: the model's.
        images: anything that `load_image` takes. Images of different shape are padded to one, as in any batch.

    Raises:
        OSError, ValueError: an image cannot be read.

    Example:
        >>> from deformable_detr_refine import DeformableDetrRefineConfig
        >>> config = DeformableDetrRefineConfig(backbone="resnet18", encoder_layers=1, decoder_layers=2, num_queries=20)
        >>> model = DeformableDetrRefineForObjectDetection(config).eval()
        >>> processor = DeformableDetrRefineImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
        >>> (inside,) = look_inside(model, processor, [Image.new("RGB", (48, 32))])
        >>> inside.query_samples(0).points.shape  # layers, heads, levels, points, x and y
        (2, 8, 4, 4, 2)
    """
    pictures = [load_image(image) for image in images]
    inputs = processor(images=pictures, return_tensors="pt").to(model.device, model.dtype)
    pyramids: list[Any] = []
    hook = model.model.encoder.register_forward_pre_hook(lambda module, args: pyramids.append(args[0]))
    try:
        with torch.inference_mode():
            outputs = model(**inputs, output_hidden_states=True, output_attentions=True, output_proposals=True)
    finally:
        hook.remove()
    (pyramid,) = pyramids
    return [
        Inside(
            picture,
            {label: printable(name) for label, name in model.config.id2label.items()},
            tuple(tuple(shape) for shape in pyramid.shapes),
            {name: _of_image(value, name, number) for name, value in outputs.items()},
            # What is the same for all images is there once.
            pyramid.valid_ratios[number % len(pyramid.valid_ratios)].cpu(),
            pyramid.centres[number % len(pyramid.centres)].cpu(),
            model.config.with_box_refine,
        )
        for number, picture in enumerate(pictures)
    ]


def _of_image(value: Any, name: str, number: int) -> Any:
    if isinstance(value, tuple):
        return tuple(layer[number].cpu() for layer in value)
    # Layers come before images in what is stacked.
    return (value[:, number] if name.startswith("intermediate_") else value[number]).cpu()


__all__ = ["AttentionSamples", "Inside", "RankedProposals", "look_inside"]
