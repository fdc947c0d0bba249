"""What config.json of a folder of transformers says about the model, in the fields of our configuration.

It is read as JSON. transformers' own class asks the Hub for a folder that release 4.57 wrote, and would follow whatever
else such a file asks for.
"""

import re
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable

from ..facts import ConfigFacts
from ..resnets import resnet_with
from ..section import Section

MODEL_TYPE = "deformable_detr"
_RESNET = re.compile(r"(?:timm/)?(resnet(?:18|34|50|101|152))(?:\.\w+)?")
_HF_RESNET = re.compile(r"microsoft/(resnet)-(18|34|50|101|152)")

# Fields of the same name and meaning, with the values that stock's class takes where its file has none.
INTEGERS = {
    "d_model": 256,
    "num_feature_levels": 4,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 1024,
    "encoder_n_points": 4,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 1024,
    "decoder_n_points": 4,
}
_NUMBERS = {
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "focal_alpha": 0.25,
    "class_cost": 1,
    "bbox_cost": 5,
    "giou_cost": 2,
    "bbox_loss_coefficient": 5,
    "giou_loss_coefficient": 2,
}
_ONLY = (
    ("model_type", (MODEL_TYPE,), MODEL_TYPE),
    ("activation_function", ("relu",), "relu"),
    ("position_embedding_type", ("sine",), "sine"),
    ("num_channels", (3,), 3),
)


def describe_config(values: dict[str, Any], where: str) -> ConfigFacts:
    """Read a config.json of `DeformableDetrForObjectDetection`.

    Args:
        values: the file's content.
        where: what to call it in messages.

    Raises:
        CheckpointError: it is another model's, or asks for a part that this package computes differently.
    """
    config = Section(values, "", where)
    for key, allowed, default in _ONLY:
        config.must_be(key, allowed, default)
    architectures = values.get("architectures")
    if isinstance(architectures, list) and any("Segmentation" in str(name) for name in architectures):
        raise CheckpointError(f"{where} is of a model with masks, which this package does not have.")
    version = config.any("transformers_version")
    version = printable(version, 20) if isinstance(version, str) else None
    two_stage = bool(config.switch("two_stage"))
    queries = "two_stage_num_proposals" if two_stage else "num_queries"
    fields: dict[str, Any] = {
        "two_stage": two_stage,
        "with_box_refine": bool(config.switch("with_box_refine")),
        "num_queries": _given(config.integer(queries), 300),
        "dilation": bool(config.switch("dilation")),
        "neck_bias": True,
        "class_loss_coefficient": 1.0,
    }
    fields |= {name: _given(config.integer(name), default) for name, default in INTEGERS.items()}
    fields |= {name: _given(config.number(name), default) for name, default in _NUMBERS.items()}
    fields |= _backbone(config, fields, int(release[0]) if (release := re.match("[0-9]{1,4}", version or "")) else 4)
    return ConfigFacts(
        fields=fields,
        class_names=class_names(values.get("id2label")),
        notes=_notes(config, values),
        version=version,
        raw=values,
        speaker="config.json",
    )


def class_names(id2label: Any) -> list[str] | None:
    """The names of `id2label` in the order of their numbers, made distinct; None if it does not number them from 0.

    Example:
        >>> class_names({"1": "car", "0": "N/A", "2": "car"})
        ['unused_0', 'car_1', 'car_2']
    """
    if not isinstance(id2label, dict) or not all(isinstance(name, str) for name in id2label.values()):
        return None
    if id2label.keys() != {str(number) for number in range(len(id2label))}:
        return None
    names = [id2label[str(number)] for number in range(len(id2label))]
    return [
        # SenseTime's folders have an output for each of COCO's ids up to 90, and call those without objects N/A.
        f"unused_{number}" if name == "N/A" else f"{name}_{number}" if names.count(name) > 1 else name
        for number, name in enumerate(names)
    ]


def _backbone(config: Section, fields: dict[str, Any], release: int) -> dict[str, Any]:
    """Which ResNet it is, what of it is frozen; refuses what gives other maps than the neck takes."""
    inner = config.section("backbone_config")
    kind = inner.any("model_type") if inner.values else None
    if kind not in (None, "timm_backbone", "resnet"):
        raise CheckpointError(
            f"{config.where}: the backbone is a {printable(str(kind))}; only ResNets can be converted."
        )
    options = inner if inner.values else config.section("backbone_kwargs")
    by_timm = kind == "timm_backbone" or (kind is None and config.switch("use_timm_backbone") is not False)
    if by_timm:
        name = str((inner if inner.values else config).any("backbone") or "resnet50")
        backbone = _named(_RESNET, name)
        # Its own rule finds no "resnet" in a config's "timm_backbone", so that releases from 5 on train all of it.
        frozen = 1 if release < 5 else -1
        if options.any("output_stride") not in (None, 16 if fields["dilation"] else 32):
            raise CheckpointError(f"{config.where}: output_stride={options.any('output_stride')} cannot be converted.")
    elif kind is None:
        name = str(config.any("backbone"))
        backbone = _named(_HF_RESNET, name)
        frozen = 4
    else:
        for key, only in (
            ("hidden_act", "relu"),
            ("downsample_in_first_stage", False),
            ("downsample_in_bottleneck", False),
        ):
            inner.must_be(key, (only,), only)
        blocks, depths = inner.any("layer_type", "bottleneck"), inner.any("depths", [3, 4, 6, 3])
        name = f"{blocks} {depths}"
        backbone = resnet_with(blocks, tuple(depths) if isinstance(depths, list) else ())
        frozen = 4
    if backbone is None:
        raise CheckpointError(
            f"{config.where}: the backbone {printable(name)} cannot be converted; ResNet-18, 34, 50, 101 and 152 can."
        )
    if fields["dilation"] and not by_timm:
        raise CheckpointError(f"{config.where}: dilation=True with transformers' own ResNet, which has no such form.")
    _check_levels(config.where, options, by_timm, fields["num_feature_levels"])
    return {"backbone": backbone, "backbone_frozen_stages": frozen}


def _named(pattern: re.Pattern[str], name: str) -> str | None:
    named = pattern.fullmatch(name)
    return "".join(named.groups()) if named else None


def _check_levels(where: str, options: Section, by_timm: bool, levels: int) -> None:
    """The neck takes the backbone's last three maps, or with one level its last."""
    last_maps = [2, 3, 4] if levels > 1 else [4]
    indices, features = options.any("out_indices"), options.any("out_features")
    if indices is None and features is not None:
        stages = [str(name)[-1:] for name in features] if isinstance(features, list) else []
        indices = [int(stage) for stage in stages if stage.isdecimal()]
    # timm's default, in the code around it, is these; that of transformers' own ResNet is its last map.
    indices = (last_maps if by_timm else [4]) if indices is None else indices
    if not isinstance(indices, list) or indices not in (last_maps, [index - 5 for index in last_maps]):
        raise CheckpointError(
            f"{where}: the neck takes the backbone's maps {printable(str(indices))} of 0..4; only {last_maps} can be "
            "converted."
        )


def _notes(config: Section, values: dict[str, Any]) -> list[str]:
    notes = []
    if config.switch("auxiliary_loss") is not True:
        notes.append(
            "Stock trains without losses of the inner decoder layers (auxiliary_loss is off); this package always has "
            "them."
        )
    if config.number("dropout", 0.1):
        notes.append("Stock drops out the encoder's input too, in training; this package does not.")
    if "id2label" in values and class_names(values["id2label"]) is None:
        notes.append("id2label of config.json does not number its classes from 0, so it was not used.")
    return notes


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


__all__ = ["INTEGERS", "MODEL_TYPE", "class_names", "describe_config"]
