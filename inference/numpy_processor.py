"""The image processor in numpy: for exported detectors, which run where there is no PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from deformable_detr_refine.modeling.image_decoding import to_rgb
from deformable_detr_refine.modeling.setting_checks import check_processor
from deformable_detr_refine.modeling.size_rules import checked_size, resized_shape, rule_of

from .numpy_resize import resize


@dataclass
class NumpyImageProcessor:
    """Prepares images and finds boxes as `DeformableDetrRefineImageProcessor` does on a CPU, whose settings it takes.

    Raises:
        ValueError: a setting is of another type, or out of range.

    Example:
        >>> processor = NumpyImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
        >>> processor([Image.new("RGB", (64, 32))])["pixel_values"].shape
        (1, 3, 48, 96)
    """

    size: Any
    size_rule: str = "mmdet"
    resample: int = 2
    antialias: bool = False
    do_resize: bool = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Any = (0.485, 0.456, 0.406)
    image_std: Any = (0.229, 0.224, 0.225)
    do_pad: bool = True
    pad_size: Any = None
    top_k: int = 100
    clip_boxes: bool = True
    # Of transformers, and nothing here.
    do_convert_rgb: bool = True
    default_to_square: bool = False
    device: None = None

    def __post_init__(self):
        self.size = checked_size(self.size)
        rule_of(self.size_rule)
        check_processor(self)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "NumpyImageProcessor":
        """By the settings of a preprocessor_config.json; those that change nothing here are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in known})

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image after resizing, both in pixels.

        Raises:
            ValueError: the image is so thin that a side of 0 would be left.
        """
        return resized_shape(height, width, self.size, rule_of(self.size_rule))

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "np") -> dict[str, np.ndarray]:
        """A batch.

        Args:
            images: B of any mode and size; those of another size than the largest are padded.
            return_tensors: "np", as there are no others; transformers' processors have this argument too.

        Returns:
            `pixel_values` (B, 3, height, width) float32, zero beyond an image, and `pixel_mask` (B, height, width)
            int64, 1 on it.

        Raises:
            ValueError: there is no image, or one is too thin, of mode F, or does not fit into `pad_size`.
        """
        if return_tensors != "np":
            raise ValueError(f"This image processor gives arrays of numpy ('np'), not {return_tensors!r}.")
        if not images:
            raise ValueError("There is no image to prepare: the list of images is empty.")
        pixels = [self._resized(np.asarray(to_rgb(image))) for image in images]
        height, width = (max(array.shape[axis] for array in pixels) for axis in (0, 1))
        if self.do_pad and self.pad_size is not None:
            if height > self.pad_size["height"] or width > self.pad_size["width"]:
                raise ValueError(f"An image of {width}x{height} after resizing does not fit into {self.pad_size}.")
            height, width = self.pad_size["height"], self.pad_size["width"]
        values = np.zeros((len(pixels), 3, height, width), np.float32)
        mask = np.zeros((len(pixels), height, width), np.int64)
        for array, canvas, covered in zip(pixels, values, mask, strict=True):
            here = canvas[:, : array.shape[0], : array.shape[1]]
            here[:] = array.transpose(2, 0, 1)
            self._normalise(here)
            covered[: array.shape[0], : array.shape[1]] = 1
        return {"pixel_values": values, "pixel_mask": mask}

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """The best (query, class) pairs of each image, best first.

        Args:
            outputs: has `logits` (B, Q, K) and `pred_boxes` (B, Q, 4), cxcywh normalised by the image itself.
            threshold: keep scores above it.
            target_sizes: (height, width) of each original image. Without it, boxes are in 0..1 of the image.
            top_k: at most so many detections an image, before the threshold; the processor's own number if None.

        Returns:
            Per image `scores` (N,), `labels` (N,) and `boxes` (N, 4), xyxy in pixels of the original image, clipped to
            it unless `clip_boxes` is False.
        """
        most = self.top_k if top_k is None else top_k
        sizes = [(1, 1)] * len(outputs.logits) if target_sizes is None else target_sizes
        return [
            self._best(logits, boxes, threshold, size, most)
            for logits, boxes, size in zip(outputs.logits, outputs.pred_boxes, sizes, strict=True)
        ]

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if not self.do_resize:
            return image
        return resize(image, self.resized_shape(*image.shape[:2]), self.resample, bool(self.antialias))

    def _normalise(self, pixels: np.ndarray) -> None:
        """(3, height, width) float32 of grey levels, in place; in PyTorch's order, so that the numbers are the same."""
        if self.do_normalize:
            scale = np.float32(1 / self.rescale_factor if self.do_rescale else 1)
            mean, std = (np.broadcast_to(np.float32(value), 3) * scale for value in (self.image_mean, self.image_std))
            pixels -= mean[:, None, None]
            pixels /= std[:, None, None]
        elif self.do_rescale:
            pixels *= np.float32(self.rescale_factor)

    def _best(
        self, logits: np.ndarray, boxes: np.ndarray, threshold: float, size: tuple[int, int], most: int
    ) -> dict[str, np.ndarray]:
        """Of one image: logits (Q, K), boxes (Q, 4)."""
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-logits.ravel().astype(np.float32)))
        scores[np.isnan(scores)] = -np.inf  # no detections
        best = np.argpartition(-scores, most - 1)[:most] if most < len(scores) else np.arange(len(scores))
        best = best[np.lexsort((best, -scores[best]))]
        best = best[scores[best] > threshold]
        queries, labels = best // logits.shape[-1], best % logits.shape[-1]
        centre, half = boxes[queries, :2], np.float32(0.5) * boxes[queries, 2:]
        corners = np.concatenate((centre - half, centre + half), 1, dtype=np.float32)
        if self.clip_boxes:
            corners = corners.clip(0, 1)
        return {"scores": scores[best], "labels": labels, "boxes": corners * np.array(size[::-1] * 2, np.float32)}


__all__ = ["NumpyImageProcessor"]
