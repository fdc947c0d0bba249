"""What detrex's config.yaml says about a model of this family, in the fields of our configuration."""

from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import described, printable

from ..facts import ConfigFacts
from ..section import Section
from .yaml_file import look_up

# Their setting, what this package has, and what detrex takes where the config does not say.
_ONLY = (
    ("model.backbone.stem.norm", ("FrozenBN",), "FrozenBN"),
    ("model.backbone.stages.norm", ("FrozenBN",), "FrozenBN"),
    ("model.backbone.stages.stride_in_1x1", (False,), False),
    ("model.backbone.stages.num_groups", (1,), 1),
    ("model.neck.kernel_size", (1,), 3),
    ("model.neck.activation", (None,), None),
    ("model.neck.norm_layer.num_groups", (32,), 32),
    ("model.position_embedding.normalize", (True,), False),
    ("model.position_embedding.offset", (-0.5,), 0.0),
    ("model.position_embedding.temperature", (10000,), 10000),
    ("model.transformer.encoder.post_norm", (False,), False),
    ("model.criterion.loss_class_type", ("focal_loss",), "focal_loss"),
    ("dataloader.test.mapper.img_format", ("RGB",), "RGB"),
)
_TYPES = (
    ("model.backbone._target_", "ResNet"),
    ("model.backbone.stages._target_", "make_default_stages"),
    ("model.backbone.stem._target_", "BasicStem"),
    ("model.neck._target_", "ChannelMapper"),
    ("model.neck.norm_layer._target_", "GroupNorm"),
    ("model.position_embedding._target_", "PositionEmbeddingSine"),
    ("model.transformer._target_", "DeformableDetrTransformer"),
    ("model.transformer.encoder._target_", "DeformableDetrTransformerEncoder"),
    ("model.transformer.decoder._target_", "DeformableDetrTransformerDecoder"),
)
_SWITCHES = {"model.as_two_stage": "two_stage", "model.with_box_refine": "with_box_refine"}
_NUMBERS = {
    "model.num_classes": "num_labels",
    "model.embed_dim": "d_model",
    "model.neck.num_outs": "num_feature_levels",
    "model.transformer.encoder.num_layers": "encoder_layers",
    "model.transformer.encoder.num_heads": "encoder_attention_heads",
    "model.transformer.encoder.feedforward_dim": "encoder_ffn_dim",
    "model.transformer.decoder.num_layers": "decoder_layers",
    "model.transformer.decoder.num_heads": "decoder_attention_heads",
    "model.transformer.decoder.feedforward_dim": "decoder_ffn_dim",
}
_WEIGHTS = {
    "model.criterion.alpha": "focal_alpha",
    "model.criterion.gamma": "focal_gamma",
    "model.criterion.weight_dict.loss_class": "class_loss_coefficient",
    "model.criterion.weight_dict.loss_bbox": "bbox_loss_coefficient",
    "model.criterion.weight_dict.loss_giou": "giou_loss_coefficient",
    "model.criterion.matcher.cost_class": "class_cost",
    "model.criterion.matcher.cost_bbox": "bbox_cost",
    "model.criterion.matcher.cost_giou": "giou_cost",
}


def is_detrex(config: dict[Any, Any]) -> bool:
    """Whether a YAML file is a lazy config of a model."""
    return isinstance(look_up(config, "model", "_target_"), str)


def describe_config(config: dict[Any, Any], where: str) -> ConfigFacts:
    """Read a config.yaml of detrex.

    Args:
        config: as `read_yaml` gives it.
        where: what to call it in messages.

    Raises:
        CheckpointError: it has no model of this family, or one with a part that this package computes differently.
    """
    kind = look_up(config, "model", "_target_")
    if not isinstance(kind, str) or kind.rpartition(".")[2] != "DeformableDETR":
        raise CheckpointError(f"{where} describes {_class(kind)}, not DeformableDETR.")
    section = _Flat(config, where)
    for key, name in _TYPES:
        target = section.any(key)
        if target is not None and not (isinstance(target, str) and target.rpartition(".")[2] == name):
            raise CheckpointError(f"{where}: {key} is {_class(target)}; this package has only {name}.")
    for key, allowed, default in _ONLY:
        section.must_be(key, allowed, default)
    said: dict[str, Any] = {ours: section.switch(theirs) for theirs, ours in _SWITCHES.items()}
    said |= {ours: section.integer(theirs) for theirs, ours in _NUMBERS.items()}
    said |= {ours: section.number(theirs) for theirs, ours in _WEIGHTS.items()}
    said["num_queries"] = section.integer("model.num_queries")
    if said["two_stage"] and (proposals := section.integer("model.transformer.two_stage_num_proposals")) is not None:
        said["num_queries"] = proposals
    if (depth := section.integer("model.backbone.stages.depth")) is not None:
        said["backbone"] = f"resnet{depth}"
    # 1 freezes the stem, 2 the stage after it too; 0 nothing.
    if (frozen := section.integer("model.backbone.freeze_at")) is not None:
        said["backbone_frozen_stages"] = min(frozen - 1, 4)
    levels = said["num_feature_levels"] or 4
    section.must_be(
        "model.backbone.out_features", (("res3", "res4", "res5")[-min(levels, 3) :],), ("res3", "res4", "res5")
    )
    if (width := said["d_model"]) is not None:
        section.must_be("model.position_embedding.num_pos_feats", (width // 2,), width // 2)
    notes: list[str] = []
    said |= _dropout(section, notes)
    facts = ConfigFacts({name: value for name, value in said.items() if value is not None}, notes=notes, raw=config)
    facts.processor = _processor(section, config)
    return facts


class _Flat(Section):
    """A section whose keys are whole paths."""

    def __init__(self, config: dict[Any, Any], where: str) -> None:
        super().__init__({}, "", where)
        self._config = config

    def any(self, key: str, default: Any = None) -> Any:
        value = look_up(self._config, *key.split("."))
        return default if value is None else value


def _dropout(section: Section, notes: list[str]) -> dict[str, float | None]:
    rates = {
        (part, kind): section.number(f"model.transformer.{part}.{kind}_dropout")
        for part in ("encoder", "decoder")
        for kind in ("attn", "ffn")
    }
    attention, ffn = rates["decoder", "attn"], rates["decoder", "ffn"]
    if attention:
        notes.append("detrex trains without dropout after the decoder's self-attention; this package with it.")
    if len(set(rates.values()) - {None}) > 1:
        notes.append(
            f"The config's dropout rates differ between layers; training here uses {ffn} after attention and "
            f"feed-forward and inside it, {attention} on attention weights."
        )
    return {"dropout": ffn, "attention_dropout": attention, "activation_dropout": ffn}


def _class(target: Any) -> str:
    """What a message shows of a `_target_`, which is a name unless somebody made it up."""
    return printable(target) if isinstance(target, str) else described(target)


def _processor(section: Section, config: dict[Any, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    mean, std = section.numbers("model.pixel_mean", 3), section.numbers("model.pixel_std", 3)
    if mean and std:
        # detrex normalises 0..255, the image processor 0..1. Rounding undoes the division's last digit.
        result["image_mean"] = [round(value / 255, 12) for value in mean]
        result["image_std"] = [round(value / 255, 12) for value in std]
    if (most := section.integer("model.select_box_nums_for_evaluation")) is not None:
        result["top_k"] = most
    steps = look_up(config, "dataloader", "test", "mapper", "augmentation")
    for step in steps if isinstance(steps, list) else []:
        target = step.get("_target_") if isinstance(step, dict) else None
        if isinstance(target, str) and target.endswith(".ResizeShortestEdge"):
            short, long = step.get("short_edge_length"), step.get("max_size")
            short = short[0] if isinstance(short, list) and len(short) == 1 else short
            if type(short) is int and type(long) is int:
                result["size"] = {"shortest_edge": short, "longest_edge": long}
    return result


__all__ = ["describe_config", "is_detrex"]
