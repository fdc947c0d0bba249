"""What the shapes of a state dict say about the model, and whether it is a model of this family at all."""

import re
from collections.abc import Iterable
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable

from .resnets import resnet_with
from .source import Weights

# common name -> number of dimensions, for what is read below
_NEEDED = {
    "model.level_embed": 2,
    "class_heads.0.weight": 2,
    "model.encoder.layers.0.self_attn.attention_weights.weight": 2,
    "model.encoder.layers.0.ffn.fc1.weight": 2,
    "model.decoder.layers.0.cross_attn.attention_weights.weight": 2,
    "model.decoder.layers.0.ffn.fc1.weight": 2,
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
    (r"label_enc\.|transformer\.tgt_embed\.|label_encoder\.", "a DINO or DN-DETR"),
    (r"transformer\.decoder\.ref_point_head\.", "a Conditional DETR, DAB-DETR or DINO"),
    (r"(detr\.|bbox_attention\.|mask_head\.)", "a detector with masks"),
    (r"transformer\.\w+\.layers\.0\.attentions\.|transformer\.level_embeds", "detrex's Deformable DETR"),
    (r"transformer\.(en|de)coder\.layers\.0\.", "the DETR or Deformable DETR of its authors' own repository"),
    (r"model\.backbone\.body\.", "this package's own model, already converted"),
    (r"model\.(en|de)coder\.layers\.0\.|class_labels_classifier\.", "a DETR of the transformers library"),
    (r"fc\.weight|head\.fc\.weight", "an image classifier"),
]


def looks_like(names: Iterable[str]) -> str | None:
    """Which other model has such names, or None."""
    names = list(names)
    return next((model for start, model in _OTHER_MODELS if any(re.match(start, name) for name in names)), None)


def describe_shapes(weights: Weights, model: str, where: str) -> dict[str, Any]:
    """Fields of DeformableDetrRefineConfig, from names and shapes.

    Args:
        weights: of the checkpoint.
        model: what it should be, in messages: "MMDetection's Deformable DETR".
        where: the file, in messages.

    Returns:
        The fields that shapes settle, without the numbers of heads and points: of these they give only the product,
        as `encoder_samples` and `decoder_samples` (heads * levels * points).

    Raises:
        CheckpointError: it is another model, or what says how large it is is missing.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    if not weights.names:
        raise CheckpointError(f"{where} holds no weights.")
    missing = [name for name in _NEEDED if name not in shapes]
    other = looks_like(weights.strangers)
    if other or len(missing) == len(_NEEDED):
        looks = f"it looks like {other}" if other else f"its names begin with {beginnings(weights.names)}"
        raise CheckpointError(f"{where} is not {model}: {looks}.")
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(map(weights.written, missing))}.")
    for name, dimensions in _NEEDED.items():
        if len(shapes[name]) != dimensions or 0 in shapes[name]:
            raise CheckpointError(
                f"{where}: {weights.written(name)} has the shape {shapes[name]}, not {dimensions} dimensions."
            )
    levels, width = shapes["model.level_embed"]
    in_neck = len(_matches(shapes, r"model\.neck\.((?:levels|extra)\.\d+)\."))
    if levels != in_neck:
        raise CheckpointError(
            f"{where}: {weights.written('model.level_embed')} has {levels} levels, the neck {in_neck}."
        )
    fields = {
        "backbone": _resnet(shapes, where),
        "num_feature_levels": levels,
        "d_model": width,
        "num_labels": shapes["class_heads.0.weight"][0],
        "two_stage": any(name.startswith("model.first_stage.") for name in shapes),
    }
    if any(re.fullmatch(r"model\.neck\.\w+\.\d+\.conv\.bias", name) for name in shapes):
        fields["neck_bias"] = True
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        fields[f"{part}_layers"] = _count(weights, f"model.{part}.layers.", where)
        fields[f"{part}_ffn_dim"] = shapes[f"model.{part}.layers.0.ffn.fc1.weight"][0]
        fields[f"{part}_samples"] = shapes[f"model.{part}.layers.0.{attention}.attention_weights.weight"][0]
    if not fields["two_stage"] and "model.query_embedding.weight" in shapes:
        fields["num_queries"] = shapes["model.query_embedding.weight"][0]
    return fields


def _resnet(shapes: Iterable[str], where: str) -> str:
    body = r"model\.backbone\.body\.layer"
    stages = tuple(len(_matches(shapes, rf"{body}{stage}\.(\d+)\.")) for stage in (1, 2, 3, 4))
    has_third = any(re.fullmatch(rf"{body}\d\.\d+\.conv3\.weight", name) for name in shapes)
    if (name := resnet_with("bottleneck" if has_third else "basic", stages)) is None:
        raise CheckpointError(
            f"{where}: the backbone has {stages} blocks, which is no ResNet-18, 34, 50, 101 or 152; "
            "other backbones cannot be converted."
        )
    return name


def _count(weights: Weights, prefix: str, where: str) -> int:
    """How many layers there are, which are numbered without a gap."""
    numbers = {int(number): number for number in _matches(weights.tensors, re.escape(prefix) + r"(\d{1,6})\.")}
    for number in range(len(numbers)):
        if number not in numbers:
            last = numbers[max(numbers)]
            name = next(name for name in weights.tensors if name.startswith(f"{prefix}{last}."))
            theirs = weights.written(name).partition(f".{last}.")[0]
            raise CheckpointError(f"{where} lacks {theirs}.{number}, but has {theirs}.{last}.")
    return len(numbers)


def _matches(names: Iterable[str], pattern: str) -> set[str]:
    """What a pattern's group is in the names that begin so."""
    return {matched[1] for name in names if (matched := re.match(pattern, name))}


def beginnings(names: Iterable[str]) -> str:
    """How names begin, for a message about a model that nobody knows."""
    starts = sorted({printable(name.split(".")[0], 30) for name in names})
    return ", ".join(starts[:6]) + (", ..." if len(starts) > 6 else "")


__all__ = ["beginnings", "describe_shapes", "looks_like"]
