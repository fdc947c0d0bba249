"""What an MMDetection config says about a model of this family: the fields of our configuration."""

from typing import Any

from deformable_detr_refine.errors import CheckpointError

from ..facts import ConfigFacts
from ..section import Section
from .facts_2x import in_form_of_3x
from .facts_data import class_names, processor_fields


def describe_config(config: dict[str, Any], where: str) -> ConfigFacts:
    """Read a config of MMDetection 3.x or 2.x.

    Args:
        config: as `read_config_text` or `read_config_file` gives it.
        where: what to call it in messages.

    Raises:
        CheckpointError: it has no model of this family, or one with a part that this package computes differently.
    """
    root = Section(config, "", where)
    if not isinstance(root.any("model"), dict):
        raise CheckpointError(f"{where} has no `model` section.")
    # 3.x builds a model whose config names no number of queries with 100.
    facts = ConfigFacts(version="3.x", defaults={"num_queries": 100}, raw=config)
    if root.section("model").kind("DeformableDETR") != "DeformableDETR":
        raise CheckpointError(f"{where} describes {root.section('model').kind('?')}, not DeformableDETR.")
    if "transformer" in root.section("model").section("bbox_head"):
        facts.version, facts.defaults = "2.x", {}
        root = Section(in_form_of_3x(root), "", where)
    model = Section(root.any("model"), "model", where)

    said = {
        "two_stage": model.switch("as_two_stage"),
        "with_box_refine": model.switch("with_box_refine"),
        "num_queries": model.integer("num_queries") or model.integer("num_query"),
        "num_feature_levels": model.integer("num_feature_levels"),
        "num_labels": model.section("bbox_head").integer("num_classes"),
        **_backbone(model.section("backbone")),
        **_layers(model.section("encoder"), "encoder", "self_attn_cfg"),
        **_layers(model.section("decoder"), "decoder", "cross_attn_cfg"),
        **_dropout(model, facts.notes),
        **_training(model, facts.notes),
    }
    _neck_and_positions(model, said)
    facts.fields = {name: value for name, value in said.items() if value is not None}
    facts.processor = processor_fields(root, model.section("data_preprocessor"), facts.notes)
    if (most := model.section("test_cfg").integer("max_per_img")) is not None:
        facts.processor["top_k"] = most
    facts.class_names = class_names(root)
    return facts


def _backbone(backbone: Section) -> dict[str, Any]:
    backbone.kind_must_be(("ResNet",), "ResNet")
    for key, only in (("num_stages", 4), ("strides", (1, 2, 2, 2)), ("dilations", (1, 1, 1, 1)), ("style", "pytorch")):
        backbone.must_be(key, (only,), only)
    for key in ("deep_stem", "avg_down", "dcn", "plugins"):
        backbone.must_be(key, (None, False), None)
    backbone.section("norm_cfg").kind_must_be(("BN", "SyncBN", "BatchNorm2d", "SyncBatchNorm"), "BN")
    depth = backbone.integer("depth")
    return {
        "backbone": None if depth is None else f"resnet{depth}",
        "backbone_frozen_stages": backbone.integer("frozen_stages"),
    }


def _layers(part: Section, name: str, attention_name: str) -> dict[str, Any]:
    """The encoder's or the decoder's settings; `attention_name` is the section of its deformable attention."""
    layer = part.section("layer_cfg")
    attention, ffn = layer.section(attention_name), layer.section("ffn_cfg")
    ffn.must_be("num_fcs", (2,), 2)
    ffn.section("act_cfg").kind_must_be(("ReLU",), "ReLU")
    heads = attention.integer("num_heads")
    if name == "decoder" and (other := layer.section("self_attn_cfg").integer("num_heads")) is not None:
        if other != (heads or 8):
            raise CheckpointError(
                f"{part.where}: the decoder has {other} heads in its self-attention and {heads or 8} in its "
                "cross-attention; this package has the same number in both."
            )
        heads = other
    return {
        f"{name}_layers": part.integer("num_layers"),
        f"{name}_attention_heads": heads,
        f"{name}_n_points": attention.integer("num_points"),
        f"{name}_ffn_dim": ffn.integer("feedforward_channels"),
        "d_model": attention.integer("embed_dims"),
    }


def _neck_and_positions(model: Section, said: dict[str, Any]) -> None:
    neck = model.section("neck")
    if neck.values:
        neck.kind_must_be(("ChannelMapper",), "ChannelMapper")
        neck.must_be("kernel_size", (1,), 3)
        neck.must_be("act_cfg", (None,), "ReLU (MMDetection's default)")
        neck.section("norm_cfg").kind_must_be(("GN", "GroupNorm"), "none")
        neck.section("norm_cfg").must_be("num_groups", (32,), None)
        if (levels := neck.integer("num_outs")) is not None:
            said["num_feature_levels"] = levels
        if (width := neck.integer("out_channels")) is not None:
            said["d_model"] = width
    levels = said["num_feature_levels"] or 4
    model.section("backbone").must_be("out_indices", ((1, 2, 3)[-min(levels, 3) :],), (0, 1, 2, 3))
    positions = model.section("positional_encoding")
    if positions.values:
        positions.must_be("normalize", (True,), False)
        positions.must_be("offset", (-0.5,), 0.0)
        positions.must_be("temperature", (10000,), 10000)
        if (features := positions.integer("num_feats")) is not None and said["d_model"] is not None:
            positions.must_be("num_feats", (said["d_model"] // 2,), features)


def _dropout(model: Section, notes: list[str]) -> dict[str, float | None]:
    encoder, decoder = (model.section(part).section("layer_cfg") for part in ("encoder", "decoder"))
    if not encoder.values or not decoder.values:
        return {}
    # mmcv's own defaults: 0.1 in deformable attention, 0 elsewhere.
    deformable = (encoder.section("self_attn_cfg"), decoder.section("cross_attn_cfg"))
    output = [attention.number("dropout", 0.1) for attention in deformable]
    ffn = [layer.section("ffn_cfg").number("ffn_drop", 0.0) for layer in (encoder, decoder)]
    attention = decoder.section("self_attn_cfg").number("dropout", 0.0)
    if len({*output, *ffn, attention}) > 1:
        notes.append(
            f"The config's dropout rates differ between layers; training here uses {ffn[1]} after attention and "
            f"feed-forward and inside it, {attention} on attention weights."
        )
    return {"dropout": ffn[1], "attention_dropout": attention, "activation_dropout": ffn[1]}


def _training(model: Section, notes: list[str]) -> dict[str, Any]:
    """Loss and matcher. Their kinds are fixed here; only training depends on them."""
    head = model.section("bbox_head")
    classes, boxes, overlap = (head.section(name) for name in ("loss_cls", "loss_bbox", "loss_iou"))
    classes.must_be("use_sigmoid", (True,), True)
    kinds = [(classes, "FocalLoss"), (boxes, "L1Loss"), (overlap, "GIoULoss")]
    costs: dict[str, float | None] = {}
    match_costs = model.section("train_cfg").section("assigner").any("match_costs")
    for cost in match_costs if isinstance(match_costs, (list, tuple)) else []:
        if isinstance(cost, dict):
            section = Section(cost, "model.train_cfg.assigner.match_costs", model.where)
            costs[section.kind("?")] = section.number("weight", 1.0)
            kinds += [(section, "GIoU")] if section.any("iou_mode", "giou") != "giou" else []
    for section, ours in kinds:
        if section.values and section.kind(ours) != ours:
            notes.append(
                f"The config trains with {section.path.rstrip('.')} {section.kind('?')}; this package with {ours}."
            )
    return {
        "focal_alpha": classes.number("alpha"),
        "focal_gamma": classes.number("gamma"),
        "class_loss_coefficient": classes.number("loss_weight"),
        "bbox_loss_coefficient": boxes.number("loss_weight"),
        "giou_loss_coefficient": overlap.number("loss_weight"),
        "class_cost": costs.get("FocalLossCost"),
        "bbox_cost": costs.get("BBoxL1Cost"),
        "giou_cost": costs.get("IoUCost"),
    }


__all__ = ["describe_config"]
