"""The config text of a model, as MMDetection 3.x would have written it: enough to build, load and test it there."""

from pprint import pformat
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import DeformableDetrRefineConfig, DeformableDetrRefineImageProcessor

from ..resnets import RESNETS, resnet_of

_STAGE_WIDTHS = {"basic": (64, 128, 256, 512), "bottleneck": (256, 512, 1024, 2048)}


def mmdet_config_text(
    config: DeformableDetrRefineConfig, processor: DeformableDetrRefineImageProcessor, labels: list[str]
) -> str:
    """Python text: `model`, and the data set's side as far as inference needs it.

    Raises:
        CheckpointError: MMDetection has no such model.
    """
    test_dataset = {
        "type": "CocoDataset",
        "data_root": "data/coco/",
        "ann_file": "annotations/instances_val2017.json",
        "data_prefix": {"img": "val2017/"},
        "metainfo": {"classes": tuple(labels)},
        "test_mode": True,
        "pipeline": _test_pipeline(processor),
    }
    sections = {
        "default_scope": "mmdet",
        "model": _model(config, processor),
        "test_pipeline": _test_pipeline(processor),
        "test_dataloader": {
            "batch_size": 1,
            "num_workers": 2,
            "persistent_workers": True,
            "drop_last": False,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": test_dataset,
        },
        "test_evaluator": {
            "type": "CocoMetric",
            "ann_file": "data/coco/annotations/instances_val2017.json",
            "metric": "bbox",
        },
        "test_cfg": {"type": "TestLoop"},
    }
    return "".join(f"{name} = {pformat(value, width=110, sort_dicts=False)}\n" for name, value in sections.items())


def _model(config: DeformableDetrRefineConfig, processor: DeformableDetrRefineImageProcessor) -> dict[str, Any]:
    backbone = resnet_of(config.backbone, "MMDetection")
    if config.dilation or config.inverse_sigmoid_eps != 1e-5:
        raise CheckpointError(
            f"A model with dilation={config.dilation} and inverse_sigmoid_eps={config.inverse_sigmoid_eps} has no "
            "counterpart in MMDetection, which dilates in another way and has an eps of 1e-05."
        )
    if config.two_stage and config.d_model != 256:
        raise CheckpointError(f"MMDetection's two-stage model has a width of 256; this one has {config.d_model}.")
    lateral = min(config.num_feature_levels, 3)
    widths = _STAGE_WIDTHS[RESNETS[backbone][0]]
    return {
        "type": "DeformableDETR",
        "num_queries": config.num_queries,
        "num_feature_levels": config.num_feature_levels,
        "with_box_refine": config.with_box_refine,
        "as_two_stage": config.two_stage,
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [round(value * 255, 9) for value in processor.image_mean],
            "std": [round(value * 255, 9) for value in processor.image_std],
            "bgr_to_rgb": True,
            "pad_size_divisor": 1,
        },
        "backbone": {
            "type": "ResNet",
            "depth": int(backbone.removeprefix("resnet")),
            "num_stages": 4,
            "out_indices": (1, 2, 3)[-lateral:],
            "frozen_stages": config.backbone_frozen_stages,
            "norm_cfg": {"type": "BN", "requires_grad": False},
            "norm_eval": True,
            "style": "pytorch",
            "init_cfg": None,
        },
        "neck": {
            "type": "ChannelMapper",
            "in_channels": list(widths[-lateral:]),
            "kernel_size": 1,
            "out_channels": config.d_model,
            "act_cfg": None,
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "num_outs": config.num_feature_levels,
        },
        "encoder": _layers(config, "encoder"),
        "decoder": {**_layers(config, "decoder"), "return_intermediate": True, "post_norm_cfg": None},
        "positional_encoding": {"num_feats": config.d_model // 2, "normalize": True, "offset": -0.5},
        "bbox_head": {
            "type": "DeformableDETRHead",
            "num_classes": config.num_labels,
            "embed_dims": config.d_model,
            "sync_cls_avg_factor": True,
            "loss_cls": {
                "type": "FocalLoss",
                "use_sigmoid": True,
                "gamma": config.focal_gamma,
                "alpha": config.focal_alpha,
                "loss_weight": config.class_loss_coefficient,
            },
            "loss_bbox": {"type": "L1Loss", "loss_weight": config.bbox_loss_coefficient},
            "loss_iou": {"type": "GIoULoss", "loss_weight": config.giou_loss_coefficient},
        },
        "train_cfg": {
            "assigner": {
                "type": "HungarianAssigner",
                "match_costs": [
                    {"type": "FocalLossCost", "weight": config.class_cost},
                    {"type": "BBoxL1Cost", "weight": config.bbox_cost, "box_format": "xywh"},
                    {"type": "IoUCost", "iou_mode": "giou", "weight": config.giou_cost},
                ],
            }
        },
        "test_cfg": {"max_per_img": processor.top_k},
    }


def _layers(config: DeformableDetrRefineConfig, part: str) -> dict[str, Any]:
    width, heads = config.d_model, getattr(config, f"{part}_attention_heads")
    deformable = {
        "embed_dims": width,
        "num_heads": heads,
        "num_levels": config.num_feature_levels,
        "num_points": getattr(config, f"{part}_n_points"),
        "dropout": config.dropout,
        "batch_first": True,
    }
    layer: dict[str, Any] = {"self_attn_cfg": deformable}
    if part == "decoder":
        attention = {"embed_dims": width, "num_heads": heads, "dropout": config.attention_dropout, "batch_first": True}
        layer = {"self_attn_cfg": attention, "cross_attn_cfg": deformable}
    layer["ffn_cfg"] = {
        "embed_dims": width,
        "feedforward_channels": getattr(config, f"{part}_ffn_dim"),
        "ffn_drop": config.activation_dropout,
    }
    return {"num_layers": getattr(config, f"{part}_layers"), "layer_cfg": layer}


def _test_pipeline(processor: DeformableDetrRefineImageProcessor) -> list[dict[str, Any]]:
    size = processor.size
    if size.get("height") and size.get("width"):
        resize = {"type": "Resize", "scale": (size["width"], size["height"]), "keep_ratio": False}
    elif size.get("longest_edge") and size.get("shortest_edge"):
        resize = {"type": "Resize", "scale": (size["longest_edge"], size["shortest_edge"]), "keep_ratio": True}
    elif size.get("max_height") and size["max_height"] == size["max_width"]:
        resize = {"type": "Resize", "scale": (size["max_width"], size["max_height"]), "keep_ratio": True}
    else:
        raise CheckpointError(f"MMDetection has no resizing by {dict(size)}; give the image processor another size.")
    return [
        {"type": "LoadImageFromFile", "backend_args": None},
        resize,
        {"type": "LoadAnnotations", "with_bbox": True},
        {
            "type": "PackDetInputs",
            "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        },
    ]


__all__ = ["mmdet_config_text"]
