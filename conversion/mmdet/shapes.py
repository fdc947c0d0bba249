"""What the shapes of an MMDetection state dict say about the model, and whether it is a model of this family at all."""

import re
from collections.abc import Mapping
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable

# (stage depths, bottleneck blocks) of the ResNets that MMDetection and timm have alike
_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
# name -> number of dimensions, for what is read below
_NEEDED = {
    "level_embed": 2,
    "bbox_head.cls_branches.0.weight": 2,
    "encoder.layers.0.self_attn.attention_weights.weight": 2,
    "encoder.layers.0.ffn.layers.0.0.weight": 2,
    "decoder.layers.0.cross_attn.attention_weights.weight": 2,
    "decoder.layers.0.ffn.layers.0.0.weight": 2,
}
_OTHER_MODELS = [
    (r"dn_query_generator\.", "MMDetection's DINO"),
    (r"(language_model|text_feat_map)\.", "MMDetection's Grounding DINO or GLIP"),
    (r"decoder\.ref_point_head\.", "MMDetection's Conditional DETR or DAB-DETR"),
    (r"roi_head\.", "a detector of the R-CNN family"),
    (r"rpn_head\.", "a region proposal network"),
    (r"bbox_head\.fc_(cls|reg)\.", "plain DETR"),
    (r"bbox_head\.retina_", "RetinaNet"),
    (r"bbox_head\.(multi_level|rtm|atss|gfl|vfnet|fcos|conv_centerness)", "a dense detector of MMDetection's"),
    (r"transformer\.(en|de)coder\.layers\.0\.", "the DETR or Deformable DETR of its authors' own repository"),
    (r"model\.backbone\.body\.", "this package's own model, already converted"),
    (r"model\.(en|de)coder\.layers\.0\.|class_labels_classifier\.", "a DETR of the transformers library"),
    (r"fc\.weight|head\.fc\.weight", "an image classifier"),
]


def describe_shapes(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """Fields of DeformableDetrRefineConfig, from names and shapes in MMDetection 3.x's form.

    Returns:
        The fields that shapes settle, without the numbers of heads and points: of these they give only the product,
        as `encoder_samples` and `decoder_samples` (heads * levels * points).

    Raises:
        CheckpointError: it is another model, or what says how large it is is missing.
    """
    if not shapes:
        raise CheckpointError(f"{where} holds no weights.")
    missing = [name for name in _NEEDED if name not in shapes]
    other = next((model for start, model in _OTHER_MODELS if any(re.match(start, name) for name in shapes)), None)
    if missing and (other or len(missing) == len(_NEEDED)):
        looks = f"it looks like {other}" if other else f"its names begin with {_beginnings(shapes)}"
        raise CheckpointError(f"{where} is not MMDetection's Deformable DETR: {looks}.")
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}.")
    if other:
        raise CheckpointError(f"{where} is not MMDetection's Deformable DETR: it looks like {other}.")
    for name, dimensions in _NEEDED.items():
        if len(shapes[name]) != dimensions or 0 in shapes[name]:
            raise CheckpointError(f"{where}: {name} has the shape {shapes[name]}, not {dimensions} dimensions.")
    levels, width = shapes["level_embed"]
    in_neck = len(_matches(shapes, r"neck\.((?:extra_)?convs\.\d+)\."))
    if levels != in_neck:
        raise CheckpointError(f"{where}: level_embed has {levels} levels, the neck {in_neck}.")
    fields = {
        "backbone": _resnet(shapes, where),
        "num_feature_levels": levels,
        "d_model": width,
        "num_labels": shapes["bbox_head.cls_branches.0.weight"][0],
        "two_stage": any(name.startswith(("memory_trans_", "pos_trans_")) for name in shapes),
    }
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        fields[f"{part}_layers"] = _count(shapes, f"{part}.layers.", where)
        fields[f"{part}_ffn_dim"] = shapes[f"{part}.layers.0.ffn.layers.0.0.weight"][0]
        fields[f"{part}_samples"] = shapes[f"{part}.layers.0.{attention}.attention_weights.weight"][0]
    if not fields["two_stage"] and "query_embedding.weight" in shapes:
        fields["num_queries"] = shapes["query_embedding.weight"][0]
    return fields


def _resnet(shapes: Mapping[str, tuple[int, ...]], where: str) -> str:
    stages = tuple(len(_matches(shapes, rf"backbone\.layer{stage}\.(\d+)\.")) for stage in (1, 2, 3, 4))
    bottleneck = any(re.fullmatch(r"backbone\.layer\d\.\d+\.conv3\.weight", name) for name in shapes)
    if (stages, bottleneck) not in _RESNETS:
        raise CheckpointError(
            f"{where}: the backbone has {stages} blocks, which is no ResNet-18, 34, 50, 101 or 152; "
            "other backbones cannot be converted."
        )
    return _RESNETS[stages, bottleneck]


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str, where: str) -> int:
    """How many layers there are, which are numbered without a gap."""
    numbers = {int(number) for number in _matches(shapes, re.escape(prefix) + r"(\d{1,6})\.")}
    for number in range(len(numbers)):
        if number not in numbers:
            raise CheckpointError(f"{where} lacks {prefix}{number}, but has {prefix}{max(numbers)}.")
    return len(numbers)


def _matches(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> set[str]:
    """What a pattern's group is in the names that begin so."""
    return {found[1] for name in shapes if (found := re.match(pattern, name))}


def _beginnings(shapes: Mapping[str, tuple[int, ...]]) -> str:
    beginnings = sorted({printable(name.split(".")[0], 30) for name in shapes})
    return ", ".join(beginnings[:6]) + (", ..." if len(beginnings) > 6 else "")


__all__ = ["describe_shapes"]
