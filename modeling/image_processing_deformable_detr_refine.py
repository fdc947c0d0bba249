"""From images to what the model takes, and from its outputs to boxes in the original image."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.utils.generic import TensorType

from .annotations import coco_labels
from .image_decoding import to_rgb
from .image_io import load_image
from .pixel_values import check_pixels, padded
from .post_processing import detections
from .setting_checks import bounded_file, check_own_names, check_processor, check_sizes
from .size_rules import checked_size, resized_shape, rule_of


class DeformableDetrRefineImageProcessorKwargs(ImagesKwargs, total=False):
    """
    size_rule: which code base's rounding gives the resized sides: 'mmdet' (the default; detectron2 and detrex too),
        'original' (the authors', and transformers until 4.40) or 'transformers' (4.57 and later).
    antialias: smooth an image before it is made smaller. MMDetection does not, so the default is False; the others do.
    top_k: at most so many detections an image.
    clip_boxes: clip the detections' boxes to the image. The authors and transformers do not; the default is True.
    """

    size_rule: str
    antialias: bool
    top_k: int
    clip_boxes: bool


class DeformableDetrRefineImageProcessor(TorchvisionBackend):
    """MMDetection's test pipeline, and by its settings that of the other code bases: resize, normalise, pad.

    An image keeps its aspect ratio and grows or shrinks until its short side is `size["shortest_edge"]` or its long
    side `size["longest_edge"]`, whichever comes first (one of them alone is the only limit); or until it fits
    `{"max_height", "max_width"}`. `{"height", "width"}` stretches it; a whole number is the shortest edge, with 1333 as
    the longest, as in transformers' DETR. `size_rule` says how sides are rounded. Bilinear without
    antialiasing, within one grey level of cv2's; with `antialias`, within one of Pillow's. Padding goes to the right
    and the bottom, after normalisation.

    Images are PIL (any mode), numpy or torch (uint8, channels first or last), paths or URLs. EXIF orientation is
    honoured where the processor opens the file itself; an image already open is taken as its pixels stand, so that
    boxes fit what the caller holds (`deformable_detr_refine.load_image` turns it).

    Source: mmdet/datasets/transforms (Resize), mmcv/image/geometric.py (rescale_size).
    """

    valid_kwargs = DeformableDetrRefineImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]
    resample = PILImageResampling.BILINEAR
    size_rule = "mmdet"
    antialias = False
    top_k = 100
    clip_boxes = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 800, "longest_edge": 1333}
    default_to_square = False
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_pad = True

    def __init__(self, **kwargs: Unpack[DeformableDetrRefineImageProcessorKwargs]) -> None:
        settings = self.valid_kwargs.__annotations__
        check_own_names(type(self), kwargs, ("model_input_names", *settings))
        check_sizes(kwargs)
        super().__init__(**kwargs)
        check_processor(self)
        rule_of(self.size_rule)
        checked_size(self.size)

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        name = kwargs.get("image_processor_filename", "preprocessor_config.json")
        with bounded_file(pretrained_model_name_or_path, name):
            values, rest = super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
            return dict(values.items()), rest

    def _standardize_kwargs(self, size: Any = None, **kwargs: Any) -> dict[str, Any]:
        if isinstance(size, int):
            size = {"shortest_edge": size, "longest_edge": 1333}
        return super()._standardize_kwargs(size=size, **kwargs)

    def resized_shape(
        self, height: int, width: int, size: SizeDict | dict[str, int] | None = None, size_rule: str | None = None
    ) -> tuple[int, int]:
        """(height, width) of an image after `resize`, both in pixels; by the processor's own `size` and `size_rule`.

        Raises:
            ValueError: `size` has other keys, there is no such rule, or the image is so thin that a side of 0 would be
                left.

        Example:
            >>> DeformableDetrRefineImageProcessor().resized_shape(480, 640)
            (800, 1067)
        """
        sides = checked_size(self.size if size is None else size)
        return resized_shape(height, width, sides, rule_of(size_rule or self.size_rule))

    def fetch_images(self, images: Any) -> Any:
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        return load_image(images) if isinstance(images, str | os.PathLike) else super().fetch_images(images)

    def process_image(self, image: ImageInput, do_convert_rgb: bool | None = None, **kwargs: Any) -> Tensor:
        if do_convert_rgb and isinstance(image, Image.Image):
            # Channels last in memory, as it comes: resizing is three times as fast so, with the same result.
            return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).to(kwargs.get("device"))
        return super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)

    def resize(
        self,
        image: Tensor,
        size: SizeDict,
        resample: Any = None,
        antialias: bool = False,
        size_rule: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        before = image.shape[-2], image.shape[-1]
        height, width = self.resized_shape(*before, size, size_rule)
        if (height, width) == before:
            return image
        return super().resize(image, SizeDict(height=height, width=width), resample, antialias=antialias)

    def preprocess(
        self,
        images: ImageInput,
        annotations: dict[str, Any] | list[dict[str, Any]] | None = None,
        **kwargs: Unpack[DeformableDetrRefineImageProcessorKwargs],
    ) -> BatchFeature:
        """
        Args:
            images: one or a list.
            annotations: per image, COCO's form: `{"image_id": 7, "annotations": [{"bbox": [x, y, w, h] in pixels,
                "category_id": 0, "iscrowd": 0}]}`; ids are whole numbers, category ids the model's class labels. Crowds
                and boxes without area are left out, boxes are clipped to the image. `image_id` only names the image and
                may be left out, unlike in transformers' DETR.

        Returns:
            `pixel_values` (B, 3, height, width), `pixel_mask` (B, height, width) with 1 on the image, and with
            annotations `labels`: per image `class_labels` (N,), `boxes` (N, 4) cxcywh normalised by the image itself,
            `area` (N,) in pixels of the original, `iscrowd` (N,), `orig_size` and `size` (2,) as (height, width),
            `image_id` (1,). All are tensors.

        Raises:
            ValueError: there is no image, or one is empty or too thin, or its values cannot be grey levels; annotations
                that do not fit the images or are not of this form, with the place.

        Example:
            >>> from PIL import Image
            >>> processor = DeformableDetrRefineImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
            >>> box = {"bbox": [8, 4, 32, 16], "category_id": 1}
            >>> photo = Image.new("RGB", (64, 32))
            >>> inputs = processor(photo, annotations={"annotations": [box]}, return_tensors="pt")
            >>> inputs["pixel_values"].shape, inputs["labels"][0]["boxes"].tolist()
            (torch.Size([1, 3, 48, 96]), [[0.375, 0.375, 0.5, 0.5]])
        """
        return super().preprocess(images, annotations, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        annotations: dict[str, Any] | list[dict[str, Any]] | None,
        do_convert_rgb: bool,
        input_data_format: Any,
        return_tensors: str | TensorType | None = None,
        device: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        tensors = self._prepare_image_like_inputs(
            images=images, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, device=device
        )
        if not tensors:
            raise ValueError("There is no image to prepare: the list of images is empty.")
        labels = None
        if annotations is not None:
            annotations = [annotations] if isinstance(annotations, Mapping) else annotations
            if not isinstance(annotations, Sequence | np.ndarray):
                raise ValueError(f"annotations are a dict, or a list with one per image, not {annotations!r:.200}.")
            if len(annotations) != len(tensors):
                raise ValueError(f"{len(tensors)} images came with {len(annotations)} annotations; give one per image.")
            labels = [coco_labels(*pair, index) for index, pair in enumerate(zip(annotations, tensors, strict=True))]
        return self._preprocess(tensors, labels=labels, return_tensors=return_tensors, **kwargs)

    def _preprocess(
        self,
        images: list[Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        size_rule: str,
        antialias: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        do_pad: bool,
        pad_size: SizeDict | None,
        disable_grouping: bool | None,
        return_tensors: str | TensorType | None,
        labels: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        for index, image in enumerate(images):
            check_pixels(image, index, do_rescale)
        groups, order = group_images_by_shape(images, disable_grouping=disable_grouping)
        for shape, batch in groups.items():
            if do_resize:
                batch = self.resize(batch, size, resample, antialias, size_rule)
            if not (do_pad and do_normalize):
                batch = self.rescale_and_normalize(
                    batch, do_rescale, rescale_factor, do_normalize, image_mean, image_std
                )
            groups[shape] = batch
        images = list(reorder_images(groups, order))
        if labels is not None:
            for image, target in zip(images, labels, strict=True):
                target["size"] = torch.tensor(image.shape[-2:])
        if do_pad:
            mean_and_std = None
            if do_normalize:
                scale = 1 / rescale_factor if do_rescale else 1.0
                both = (torch.tensor(values, device=images[0].device) for values in (image_mean, image_std))
                mean_and_std = torch.stack(torch.broadcast_tensors(*both)) * scale
            pixel_values, pixel_mask = padded(images, pad_size, mean_and_std)
            data: dict[str, Any] = {"pixel_values": pixel_values, "pixel_mask": pixel_mask.long()}
            if return_tensors is None:
                data = {name: list(tensor) for name, tensor in data.items()}
        elif return_tensors is not None and len({image.shape for image in images}) > 1:
            raise ValueError("do_pad=False makes one tensor of images of equal size only; these differ after resizing.")
        else:
            data = {"pixel_values": images}
        features = BatchFeature(data=data, tensor_type=return_tensors)
        if labels is not None:
            features["labels"] = labels
        return features

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        if output.get("auto_map"):
            # By backend: from a plain entry transformers makes the name of a video processor too, and the pipeline asks
            # its user whether to run that one's code.
            output["auto_map"] = {"AutoImageProcessor": {"torchvision": _CUSTOM_CODE}}
        return output

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: Tensor | Sequence[tuple[int, int] | Tensor] | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Tensor]]:
        """The model's outputs as detections: the best (query, class) pairs of each image, best first.

        Args:
            outputs: has `logits` (B, Q, K) and `pred_boxes` (B, Q, 4).
            threshold: keep scores above it.
            target_sizes: (height, width) of each original image. Without it, boxes are in 0..1 of the image.
            top_k: at most so many detections an image, before the threshold; the processor's own number if None.

        Returns:
            Per image `scores` (N,), `labels` (N,) and `boxes` (N, 4), xyxy in pixels of the original image, clipped to
            it unless `clip_boxes` is False.

        Raises:
            ValueError: there are more or fewer target sizes than images, or they are no pairs.

        Example:
            >>> from types import SimpleNamespace
            >>> outputs = SimpleNamespace(logits=torch.tensor([[[2.0]]]), pred_boxes=torch.full((1, 1, 4), 0.5))
            >>> (best,) = DeformableDetrRefineImageProcessor().post_process_object_detection(outputs, 0.5, [(32, 64)])
            >>> best["boxes"].tolist()
            [[16.0, 8.0, 48.0, 24.0]]
        """
        most = self.top_k if top_k is None else top_k
        return detections(outputs.logits, outputs.pred_boxes, threshold, target_sizes, most, self.clip_boxes)


DeformableDetrRefineImageProcessor.register_for_auto_class("AutoImageProcessor")
_CUSTOM_CODE = "image_processing_deformable_detr_refine.DeformableDetrRefineImageProcessor"

__all__ = ["DeformableDetrRefineImageProcessor"]
