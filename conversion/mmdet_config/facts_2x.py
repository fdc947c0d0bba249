"""A config of MMDetection 2.x, written as 3.x writes it. Only what the model and its input depend on."""

from typing import Any

from ..section import Section


def in_form_of_3x(root: Section) -> dict[str, Any]:
    """The `model` section and the test pipeline in 3.x's form; other entries are passed on.

    In 2.x the switches stand in `model.bbox_head`, the layers in its `transformer`, and the image's mean and scale
    among the steps of the test pipeline.
    """
    model = root.section("model")
    head = model.section("bbox_head")
    transformer = head.section("transformer")
    # The two-stage transformer keeps a number of its own; bbox_head.num_query is not used by it.
    proposals = transformer.any("two_stage_num_proposals") if head.any("as_two_stage") else None
    modern = {
        "type": model.any("type", "DeformableDETR"),
        "as_two_stage": head.any("as_two_stage", False),
        "with_box_refine": head.any("with_box_refine", False),
        "num_queries": head.any("num_query") if proposals is None else proposals,
        "num_feature_levels": transformer.any("num_feature_levels", 4),
        "encoder": _layers(transformer.section("encoder")),
        "decoder": _layers(transformer.section("decoder")),
        "bbox_head": {key: head.values[key] for key in _HEAD if key in head},
        "train_cfg": {"assigner": {"match_costs": _match_costs(model)}},
        **{key: model.values[key] for key in ("backbone", "neck") if key in model},
        **({"positional_encoding": head.values["positional_encoding"]} if "positional_encoding" in head else {}),
    }
    steps = _steps(root)
    normalize = next((step for step in steps if step.get("type") == "Normalize"), None)
    if normalize is not None:
        modern["data_preprocessor"] = {
            "mean": normalize.get("mean"),
            "std": normalize.get("std"),
            "bgr_to_rgb": normalize.get("to_rgb", True),
            "pad_size_divisor": next((step.get("size_divisor") for step in steps if step.get("type") == "Pad"), None),
        }
    return {**root.values, "model": modern, "test_pipeline": steps}


_HEAD = ("num_classes", "loss_cls", "loss_bbox", "loss_iou")


def _layers(part: Section) -> dict[str, Any]:
    layer = part.section("transformerlayers")
    attentions = layer.any("attn_cfgs", [])
    attentions = list(attentions) if isinstance(attentions, (list, tuple)) else [attentions]
    names = ["self_attn_cfg", "cross_attn_cfg"][: len(attentions)]
    order = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
    layer.must_be("operation_order", (order, ("self_attn", "norm", "ffn", "norm")), order)
    ffn = layer.section("ffn_cfgs")
    feed_forward = {
        "feedforward_channels": layer.any("feedforward_channels", ffn.any("feedforward_channels")),
        "ffn_drop": layer.any("ffn_dropout", ffn.any("ffn_drop", 0.0)),
        "num_fcs": layer.any("ffn_num_fcs", ffn.any("num_fcs", 2)),
        "act_cfg": layer.any("act_cfg", ffn.any("act_cfg")),
    }
    return {
        "num_layers": part.any("num_layers"),
        "layer_cfg": {"ffn_cfg": feed_forward, **dict(zip(names, attentions, strict=True))},
    }


def _match_costs(model: Section) -> list[Any]:
    assigner = model.section("train_cfg").section("assigner")
    return [assigner.values[key] for key in ("cls_cost", "reg_cost", "iou_cost") if key in assigner]


def _steps(root: Section) -> list[dict[str, Any]]:
    """The test pipeline's steps, with what `MultiScaleFlipAug` holds unpacked and `img_scale` called `scale`."""
    pipeline = root.value_at("data", "test", "pipeline")
    if not isinstance(pipeline, (list, tuple)):
        pipeline = root.value_at("test_pipeline")
    steps: list[dict[str, Any]] = []
    for step in pipeline if isinstance(pipeline, (list, tuple)) else []:
        if not isinstance(step, dict):
            continue
        inner = step.get("transforms") if step.get("type") == "MultiScaleFlipAug" else [step]
        for one in inner if isinstance(inner, (list, tuple)) else []:
            if isinstance(one, dict):
                scale = one.get("img_scale", step.get("img_scale"))
                steps.append({**one, "scale": scale} if one.get("type") == "Resize" else one)
    return steps


__all__ = ["in_form_of_3x"]
