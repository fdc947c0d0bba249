"""A state dict of MMDetection 3.x as ours, and back: `weights_from_3x(weights_to_3x(x)) == x`, bit for bit."""

import re

import torch
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from .names import name_3x_from_ours, ours_from_3x

_PACKED = re.compile(r"decoder\.layers\.(\d+)\.self_attn\.attn\.in_proj_(weight|bias)")
_PROJECTION = re.compile(r"model\.decoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.(weight|bias)")
_EXTRA_LEVEL = re.compile(r"neck\.extra_convs\.(\d+)\.(conv|gn)\.(.+)")
_BRANCH = re.compile(r"bbox_head\.(cls|reg)_branches\.(\d+)\.(.+)")
_NECK_BIAS = re.compile(r"model\.neck\.levels\.\d+\.conv\.bias")
_FIRST_STAGE = "model.first_stage."
# The order in which MMDetection's modules list their parameters.
_ORDER_3X = (
    "level_embed",
    "backbone.",
    "neck.",
    "bbox_head.cls_branches.",
    "bbox_head.reg_branches.",
    "encoder.",
    "decoder.",
    "query_embedding.",
    "reference_points_fc.",
    "memory_trans_fc.",
    "memory_trans_norm.",
    "pos_trans_fc.",
    "pos_trans_norm.",
)
_LAYER_ORDER_3X = ("self_attn", "cross_attn", "ffn", "norms")


def weights_from_3x(weights: dict[str, Tensor], config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
    """MMDetection 3.x's names and tensors -> ours.

    Raises:
        CheckpointError: a name that the model has no place for, or unequal copies of plain's one head.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if packed := _PACKED.fullmatch(name):
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                ours[f"model.decoder.layers.{packed[1]}.self_attn.{letter}_proj.{packed[2]}"] = third
        elif extra := _EXTRA_LEVEL.fullmatch(name):
            index = min(config.num_feature_levels, 3) + int(extra[1])
            ours[f"model.neck.levels.{index}.{'norm' if extra[2] == 'gn' else 'conv'}.{extra[3]}"] = tensor
        elif branch := _BRANCH.fullmatch(name):
            _take_branch(ours, weights, branch, config)
        else:
            ours[_known(ours_from_3x(name), name)] = tensor
    return ours


def weights_to_3x(weights: dict[str, Tensor], config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
    """Our names and tensors -> MMDetection 3.x's, in its order. Plain's one head is listed once a decoder layer.

    Raises:
        CheckpointError: the neck has a bias that is not zero, for which MMDetection has no place.
    """
    theirs: dict[str, Tensor] = {}
    copies = 1 if config.with_box_refine else config.decoder_layers
    for name, tensor in weights.items():
        if projection := _PROJECTION.fullmatch(name):
            layer, kind = projection.groups()
            thirds = [weights[f"model.decoder.layers.{layer}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            theirs[f"decoder.layers.{layer}.self_attn.attn.in_proj_{kind}"] = torch.cat(thirds)
        elif _NECK_BIAS.fullmatch(name):
            if tensor.any():
                raise CheckpointError(f"MMDetection's neck has no bias; {name} of this model is not zero.")
        elif name.startswith(_FIRST_STAGE + "class_head."):
            kind = name.rpartition(".")[2]
            parts = [weights.get(f"{_FIRST_STAGE}class_head.{part}.{kind}") for part in ("foreground", "other_classes")]
            rows = [part for part in parts if part is not None]
            theirs[f"bbox_head.cls_branches.{config.decoder_layers}.{kind}"] = torch.cat(rows)
        elif name.startswith(_FIRST_STAGE + "box_head."):
            rest = name.removeprefix(_FIRST_STAGE + "box_head.")
            theirs[f"bbox_head.reg_branches.{config.decoder_layers}.{rest}"] = tensor
        else:
            theirs |= _renamed(_known(name_3x_from_ours(name), name), tensor, copies, min(config.num_feature_levels, 3))
    return dict(sorted(theirs.items(), key=lambda item: _place(item[0])))


def unequal_copies(weights: dict[str, Tensor], decoder_layers: int) -> str | None:
    """The first head parameter, in 3.x's names, that differs from layer 0's; None when one head serves all layers."""
    for name, tensor in weights.items():
        if (branch := _BRANCH.fullmatch(name)) and int(branch[2]) < decoder_layers:
            first = weights.get(f"bbox_head.{branch[1]}_branches.0.{branch[3]}")
            if first is None or not torch.equal(first, tensor):
                return name
    return None


def _take_branch(
    ours: dict[str, Tensor], weights: dict[str, Tensor], branch: re.Match[str], config: DeformableDetrRefineConfig
) -> None:
    name, (kind, number, rest) = branch[0], branch.groups()
    tensor, layer = weights[name], int(number)
    if layer >= config.decoder_layers + config.two_stage:
        raise CheckpointError(f"There is no place for {name} in a model of {config.decoder_layers} decoder layers.")
    if layer == config.decoder_layers and kind == "reg":
        ours[f"{_FIRST_STAGE}box_head.{rest}"] = tensor
    elif layer == config.decoder_layers:
        ours[f"{_FIRST_STAGE}class_head.foreground.{rest}"] = tensor[:1]
        if len(tensor) > 1:
            ours[f"{_FIRST_STAGE}class_head.other_classes.{rest}"] = tensor[1:]
    elif config.with_box_refine or layer == 0:
        ours[_known(ours_from_3x(name), name)] = tensor
    elif not torch.equal(tensor, weights[f"bbox_head.{kind}_branches.0.{rest}"]):
        raise CheckpointError(f"{name} differs from layer 0's, but the plain model has one head for all layers.")


def _renamed(name: str, tensor: Tensor, copies: int, lateral: int) -> dict[str, Tensor]:
    if (branch := _BRANCH.fullmatch(name)) and copies > 1:
        return {f"bbox_head.{branch[1]}_branches.{layer}.{branch[3]}": tensor for layer in range(copies)}
    match name.split(".", 3):
        case ["neck", "convs", number, rest] if int(number) >= lateral:
            return {f"neck.extra_convs.{int(number) - lateral}.{rest}": tensor}
    return {name: tensor}


def _place(name: str) -> tuple[int, int, int]:
    """Family, layer, part of the layer. Within these our own order is MMDetection's."""
    family = next(index for index, prefix in enumerate(_ORDER_3X) if name.startswith(prefix))
    match name.split("."):
        case ["encoder" | "decoder", "layers", layer, part, *_]:
            return family, int(layer), _LAYER_ORDER_3X.index(part)
        case ["bbox_head", _, layer, *_]:
            return family, int(layer), 0
    return family, int(name.startswith("neck.extra_convs.")), 0


def _known(renamed: str | None, name: str) -> str:
    if renamed is None:
        raise CheckpointError(f"There is no place for {name} in the model.")
    return renamed


__all__ = ["unequal_copies", "weights_from_3x", "weights_to_3x"]
