"""What the fields of a config and the settings of an image processor may be: the type and the range of each.

They are checked before anything is built: a folder may come from a stranger, and what its config.json and
preprocessor_config.json ask for must end soon, fit into a machine and stay on it.
"""

import inspect
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

MOST_BYTES = 10_000_000
MOST_CLASSES = 100_000
LONGEST_NAME = 1_000
# fp32 takes 8 GB of them. The largest detectors of this family, on networks of a billion parameters, have fewer.
MOST_PARAMETERS = 2_000_000_000
# timm takes 'hf-hub:...' and 'local-dir:...' too: the network, and any folder of this machine.
_BACKBONE = re.compile(r"\w{1,100}(\.[\w-]{1,100})?", re.ASCII)

_LAYERS, _HEADS, _POINTS, _WIDTH = (1, 100), (1, 256), (1, 64), (1, 65_536)
_PROBABILITY, _WEIGHT = (0, 0.999999), (0, 1e6)
INTEGERS: dict[str, tuple[int, int]] = {
    "backbone_frozen_stages": (-1, 4),
    "d_model": (32, 8_192),
    "num_feature_levels": (1, 10),
    "encoder_layers": _LAYERS,
    "decoder_layers": _LAYERS,
    "encoder_attention_heads": _HEADS,
    "decoder_attention_heads": _HEADS,
    "encoder_ffn_dim": _WIDTH,
    "decoder_ffn_dim": _WIDTH,
    "encoder_n_points": _POINTS,
    "decoder_n_points": _POINTS,
    "num_queries": (1, 100_000),
    "chunk_size_feed_forward": (0, 1_000_000),
}
NUMBERS: dict[str, tuple[float, float]] = {
    "dropout": _PROBABILITY,
    "attention_dropout": _PROBABILITY,
    "activation_dropout": _PROBABILITY,
    "inverse_sigmoid_eps": (1e-12, 0.49),
    "focal_prior": (1e-12, 0.999999),
    "focal_alpha": (0, 1),
    "focal_gamma": (0, 100),
    "class_cost": _WEIGHT,
    "bbox_cost": _WEIGHT,
    "giou_cost": _WEIGHT,
    "class_loss_coefficient": _WEIGHT,
    "bbox_loss_coefficient": _WEIGHT,
    "giou_loss_coefficient": _WEIGHT,
    "quality_target": (0, 1),
    "score_threshold": (0, 1),
}
SWITCHES = (
    "two_stage",
    "mixed_query_selection",
    "with_box_refine",
    "dilation",
    "neck_bias",
    "int8",
    "is_encoder_decoder",
)
MOST_DETECTIONS = 100_000
LONGEST_SIDE = 10_000  # an image of 10,000 x 10,000 takes 1.2 GB as the model gets it
RESAMPLING = (0, 1, 2, 3)
PROCESSOR_SWITCHES = (
    *("do_resize", "do_rescale", "do_normalize", "do_pad", "do_convert_rgb"),
    *("antialias", "clip_boxes", "default_to_square"),
)
PROCESSOR_NUMBERS: dict[str, tuple[float, float]] = {
    "rescale_factor": (1e-6, 1e6),
    "image_mean": (-1e4, 1e4),
    "image_std": (1e-6, 1e4),
}
_ATTENTION = (None, "eager", "sdpa", {})


@contextmanager
def bounded_file(model: Any, name: str) -> Iterator[None]:
    """Around transformers' reading of a folder's file of settings, which takes any size and depth.

    Raises:
        ValueError: it is too long, nested too deeply, no JSON in UTF-8, or no object.
    """
    file = os.path.join(model, name)
    if os.path.isfile(file) and os.path.getsize(file) > MOST_BYTES:
        raise ValueError(f"{file} has {os.path.getsize(file):,} bytes, which no settings have.")
    try:
        if os.path.isfile(file):
            _check_object(file)
        yield
    except RecursionError as error:
        raise ValueError(f"{name} of {model} is nested more deeply than any settings.") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{name} of {model} holds no object of names and values ({error}).") from error


def _check_object(file: str) -> None:
    with open(file, encoding="utf-8") as opened:
        try:
            values = json.load(opened)
        except ValueError as error:
            raise ValueError(f"{file} is not JSON in UTF-8: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no object of names and values ({type(values).__name__}).")


def check_words(config: Any, words: Mapping[str, Any]) -> None:
    """Refuse settings beyond the fields that would break the config itself, or take long to read.

    Called before transformers makes attributes of them, and class names of a number.
    """
    import torch  # here, since images are prepared where it is not, too

    check_own_names(type(config), words, ("model_type", *config.attribute_map))
    for name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        if words.get(name) not in _ATTENTION:
            raise ValueError(f"{name}={_shown(words[name])}, but this model has 'eager' and 'sdpa' only.")
    if not isinstance(words.get("model_type", ""), str):
        raise ValueError(f"model_type={_shown(words['model_type'])} must be a name.")
    if words.get("per_layer_config") is not None:
        raise ValueError("per_layer_config is nothing that this model has.")
    if not isinstance(config.label2id, Mapping | None):
        raise ValueError(f"label2id={_shown(config.label2id)} must give the number of each class by its name.")
    for value in (config.dtype, words.get("torch_dtype")):
        # transformers looks a name up in torch, where other things have names too.
        named = torch.__dict__.get(value) if isinstance(value, str) else value
        if value is not None and not (isinstance(named, torch.dtype) and named.is_floating_point):
            raise ValueError(f"dtype={_shown(value)} must be a floating type, as 'float32'.")
    if "num_labels" in words:  # of which transformers makes as many names, beside id2label too
        number = words["num_labels"]
        if type(number) is not int or not 1 <= number <= MOST_CLASSES:
            raise ValueError(f"num_labels={_shown(number)} must be a whole number from 1 to {MOST_CLASSES:,}.")
    if config.id2label is not None:
        _check_names(config.id2label)


def check_fields(config: Any) -> None:
    """Refuse fields of another type, or beyond what a detector can have.

    Raises:
        ValueError: names the field, its value and what it may be.
    """
    for name, (least, most) in INTEGERS.items():
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name}={_shown(value)} must be a whole number from {least:,} to {most:,}.")
    for name, (least, most) in NUMBERS.items():
        value = getattr(config, name)
        if value is None and name in ("quality_target", "score_threshold"):
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name}={_shown(value)} must be a number from {least:g} to {most:g}.")
    for name in SWITCHES:
        if type(getattr(config, name)) is not bool:
            raise ValueError(f"{name}={_shown(getattr(config, name))} must be true or false.")
    if not isinstance(config.backbone, str) or not _BACKBONE.fullmatch(config.backbone):
        raise ValueError(f"backbone={_shown(config.backbone)} must be the name of a timm model, as 'resnet50'.")
    ids = config.category_ids
    # Of other classes they may be: transformers changes id2label of a loaded config for a fine-tuning.
    if ids is not None and not (len(ids) <= MOST_CLASSES and all(_is_id(number) for number in ids)):
        raise ValueError("category_ids must have a whole number or a text for each class.")
    if (count := _parameters(config)) > MOST_PARAMETERS:
        raise ValueError(
            f"These sizes of layers make {count:,} parameters without the backbone's, the most are {MOST_PARAMETERS:,}."
        )


def check_own_names(owner: type, words: Iterable[str], fine: Collection[str]) -> None:
    """Refuse settings that would take the place of a method or a constant of the class: they become attributes.

    Args:
        fine: names of the class that are settings.
    """
    for name in words:
        own = inspect.getattr_static(owner, name, None)
        settable = isinstance(own, property) and own.fset is not None
        if name.startswith("__") or not (own is None or settable or name in fine):
            raise ValueError(f"{_shown(name)} is no setting: {owner.__name__} has another thing of this name.")


def check_sizes(words: Mapping[str, Any]) -> None:
    """Refuse settings that are no sizes at all, before transformers makes sizes of them."""
    for name in ("size", "pad_size", "crop_size"):
        if isinstance(value := words.get(name), str) or value == []:
            raise ValueError(f"{name}={_shown(value)} must give sides by their names.")


def check_processor(processor: Any) -> None:
    """Refuse settings of an image processor that are of another type, or out of range.

    Raises:
        ValueError: names the setting, its value and what it may be.
    """
    for name in PROCESSOR_SWITCHES:
        if type(getattr(processor, name)) not in (bool, type(None)):  # transformers takes none for false
            raise ValueError(f"{name}={_shown(getattr(processor, name))} must be true or false.")
    if type(processor.top_k) is not int or not 1 <= processor.top_k <= MOST_DETECTIONS:
        raise ValueError(f"top_k={_shown(processor.top_k)} must be a whole number from 1 to {MOST_DETECTIONS:,}.")
    if processor.resample not in RESAMPLING:
        raise ValueError(
            f"resample={_shown(processor.resample)} must be 0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic)."
        )
    for name, (least, most) in PROCESSOR_NUMBERS.items():
        value = getattr(processor, name)
        of_colours = name.startswith("image_")
        three = of_colours and isinstance(value, list | tuple) and len(value) == 3
        numbers: Sequence[Any] = value if three else [value]
        if not all(type(number) in (int, float) and least <= number <= most for number in numbers):
            or_three = ", or three for RGB" if of_colours else ""
            raise ValueError(f"{name}={_shown(value)} must be a number from {least:g} to {most:g}{or_three}.")
    if processor.device is not None:
        raise ValueError(
            f"device={_shown(processor.device)} is no setting of a saved processor: name it where you call."
        )
    pad = None if processor.pad_size is None else dict(processor.pad_size)
    if pad is not None and not all(
        type(pad.get(side)) is int and 1 <= pad[side] <= LONGEST_SIDE for side in ("height", "width")
    ):
        raise ValueError(f"pad_size={pad} must have a height and a width from 1 to {LONGEST_SIDE:,}.")


def _check_names(id2label: Any) -> None:
    if not isinstance(id2label, Mapping) or not 1 <= len(id2label) <= MOST_CLASSES:
        raise ValueError(f"id2label must name 1 to {MOST_CLASSES:,} classes by their numbers.")
    if {str(label) for label in id2label} != {str(label) for label in range(len(id2label))}:
        raise ValueError(f"id2label must number its {len(id2label)} classes from 0 on, without a gap.")
    for label, name in id2label.items():
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise ValueError(
                f"id2label[{label}]={_shown(name)} must be a name, a text of at most {LONGEST_NAME:,} letters."
            )


def _is_id(number: Any) -> bool:
    return type(number) is int or (isinstance(number, str) and len(number) <= LONGEST_NAME)


def _parameters(config: Any) -> int:
    """How many the sizes ask for at least, in fp32."""
    width, levels = config.d_model, config.num_feature_levels
    samples = 3 * width * levels
    encoder = samples * config.encoder_attention_heads * config.encoder_n_points + 2 * width * config.encoder_ffn_dim
    decoder = samples * config.decoder_attention_heads * config.decoder_n_points + 2 * width * config.decoder_ffn_dim
    heads = width * (config.num_labels + 2 * width)
    return (
        config.encoder_layers * (encoder + 2 * width**2)
        + config.decoder_layers * (decoder + 6 * width**2 + heads)
        + levels * 9 * width**2
        + 2 * width * config.num_queries
    )


def _shown(value: Any) -> str:
    """A foreign value, of bounded length."""
    text = ascii(value) if isinstance(value, str | int | float | bool | type(None)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = [
    "LONGEST_SIDE",
    "MOST_CLASSES",
    "bounded_file",
    "check_fields",
    "check_own_names",
    "check_processor",
    "check_sizes",
    "check_words",
]
