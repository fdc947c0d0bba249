"""The proof for stock transformers: its own model of the same folder, from the installed release, in this process."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.inference.comparison import RawDetections
from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.messages import printable, without_progress_bars

from ..source import Source
from ..stock.config import INTEGERS
from ..stock.folder import open_weights
from .difference import Prediction
from .our_predictions import OurModel
from .report import SamePixels

# What the forward pass follows. Nothing else is handed on: transformers acts on more, such as `quantization_config`.
_FOLLOWED = (
    *INTEGERS,
    *("num_queries", "two_stage", "two_stage_num_proposals", "with_box_refine", "dilation", "id2label"),
)
_BACKBONE = (
    *("model_type", "backbone", "num_channels", "features_only", "output_stride", "out_indices", "out_features"),
    *("depths", "hidden_sizes", "embedding_size", "layer_type"),
)
_HEAD = re.compile(r"(?:class|bbox)_embed\.(\d+)\.")


def load_stock(source: Source) -> tuple[Any, Any]:
    """transformers' `DeformableDetrForObjectDetection` in fp32, and its image processor, of what was read of a folder.

    Weights keep their names, so transformers' own renaming and tying is what is compared with. Its config is made of
    the fields of config.json that the forward pass follows, not by `from_pretrained`: of a folder of release 4.57 that
    asks the Hub whether there is a repository 'resnet50'. Nothing here uses the network.

    Raises:
        CheckpointError: transformers would ask the Hub for the backbone, or does not load all of it.
    """
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, DeformableDetrImageProcessor

    assert source.facts is not None and source.facts.raw is not None
    config, settings = _config(source.facts.raw, source.path), source.path.parent / "preprocessor_config.json"
    try:
        with without_progress_bars():
            # A pair, with this option.
            loaded: Any = DeformableDetrForObjectDetection.from_pretrained(
                None,
                config=DeformableDetrConfig(**config),
                state_dict=_one_name_each(open_weights(source.path), bool(config.get("with_box_refine"))),
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # whatever it stops with, there is nothing to compare
        reason = printable(" ".join(str(error).split()), 200)
        raise CheckpointError(
            f"transformers {version('transformers')} does not load {source.path}: {reason}"
        ) from error
    model, info = loaded
    if wrong := {kind: min(map(str, names)) for kind, names in info.items() if names}:
        raise CheckpointError(f"transformers {version('transformers')} does not load all of {source.path}: {wrong}.")
    values = read_json(settings) if settings.is_file() else {}
    return model.eval(), DeformableDetrImageProcessor.from_dict(values)


def compare_stock(ours: OurModel, theirs: tuple[Any, Any], picture: Any, name: str) -> SamePixels:
    """One image through both, from the pixels that transformers makes of it; of the decoder, the last layer.

    Raises:
        ValueError: this package makes an image of another shape.
    """
    model, processor = theirs
    size = (picture.height, picture.width)
    inputs = processor(images=picture, return_tensors="pt")
    pixels, mask = inputs["pixel_values"], inputs["pixel_mask"]
    # Sides as the release rounds them that runs, whichever wrote the folder.
    prepared = ours.processor.preprocess(picture, size_rule="transformers", return_tensors="pt")["pixel_values"]
    if prepared.shape != pixels.shape:
        raise ValueError(
            f"transformers makes {tuple(pixels.shape)} of {name} and this package {tuple(prepared.shape)}."
        )
    with torch.no_grad():
        outputs = model(pixel_values=pixels, pixel_mask=mask)
    (detections,) = processor.post_process_object_detection(
        outputs, threshold=0.0, target_sizes=[size], top_k=ours.detections
    )
    their = Prediction(
        references=outputs.init_reference_points[0].numpy(),
        logits=outputs.logits.numpy(),
        boxes=outputs.pred_boxes.numpy(),
        found=RawDetections(*(detections[key].numpy() for key in ("boxes", "scores", "labels"))),
        image_size=size,
    )
    (every,) = ours.predict(pixels, mask, [size])
    mine = Prediction(every.references, every.logits[-1:], every.boxes[-1:], every.found, size)
    difference = float(np.abs(prepared.numpy() - pixels.numpy()).max())
    return ours.compared(name, pixels, mask, 0, difference, mine, their)


def _config(values: dict[str, Any], where: Path) -> dict[str, Any]:
    """Fields for `DeformableDetrConfig`; what is left out was checked, when it was read, to be the default."""
    config = {name: values[name] for name in _FOLLOWED if values.get(name) is not None}
    if given := values.get("backbone_config"):
        backbone = {name: given[name] for name in _BACKBONE if given.get(name) is not None}
        if given.get("model_type") == "timm_backbone":
            backbone["use_pretrained_backbone"] = False
        return config | {"backbone_config": backbone}
    if values.get("use_timm_backbone") is False:
        raise CheckpointError(f"{where} has a backbone that config.json only names: transformers asks the Hub for it.")
    timm = {"use_timm_backbone": True, "use_pretrained_backbone": False}
    return config | timm | {"backbone": values.get("backbone") or "resnet50"}


def _one_name_each(weights: dict[str, Tensor], refine: bool) -> dict[str, Tensor]:
    """Without second names of a head, which conversion finds equal: release 5 loads no file that has both."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if not (head := _HEAD.match(name))
        or not (f"model.decoder.{name}" in weights or (not refine and head[1] != "0"))
    }


__all__ = ["compare_stock", "load_stock"]
