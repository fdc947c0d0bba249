"""Weights under common names as ours, and back: `ours_from_common(common_from_ours(x)) == x`, bit for bit."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import DeformableDetrRefineConfig

from .names import NameTable

_PACKED = re.compile(r"(model\.decoder\.layers\.\d+\.self_attn)\.in_proj_(weight|bias)")
_PROJECTION = re.compile(r"(model\.decoder\.layers\.\d+\.self_attn)\.[qkv]_proj\.(weight|bias)")
_LEVEL = re.compile(r"model\.neck\.(levels|extra)\.(\d{1,6})\.(.+)")
_NECK_WEIGHT = re.compile(r"model\.neck\.levels\.\d+\.conv\.weight")
HEAD = re.compile(r"(class_heads|model\.decoder\.box_heads)\.(\d{1,6})\.(.+)")
_FIRST_CLASS_HEAD = "model.first_stage.class_head."
_FIRST_BOX_HEAD = "model.first_stage.box_head."


def ours_from_common(weights: Mapping[str, Tensor], config: DeformableDetrRefineConfig) -> dict[str, Tensor]:
    """Common names and tensors -> ours.

    Raises:
        CheckpointError: a head that the model has no place for, or unequal copies of plain's one head.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if packed := _PACKED.fullmatch(name):
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                ours[f"{packed[1]}.{letter}_proj.{packed[2]}"] = third
        elif (level := _LEVEL.fullmatch(name)) and level[1] == "extra":
            ours[f"model.neck.levels.{_lateral(config) + int(level[2])}.{level[3]}"] = tensor
        elif head := HEAD.fullmatch(name):
            _take_head(ours, weights, head, config)
        else:
            ours[name] = tensor
    return ours


def common_from_ours(
    weights: Mapping[str, Tensor], config: DeformableDetrRefineConfig, table: NameTable
) -> dict[str, Tensor]:
    """Our names and tensors -> a code base's common ones. Plain's one head is there once per decoder layer."""
    common: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".num_batches_tracked") and not table.counts_batches:
            continue
        if table.packs_attention and (projection := _PROJECTION.fullmatch(name)):
            layer, kind = projection.groups()
            thirds = [weights[f"{layer}.{letter}_proj.{kind}"] for letter in "qkv"]
            common[f"{layer}.in_proj_{kind}"] = torch.cat(thirds)
        elif name.startswith(_FIRST_CLASS_HEAD):
            kind = name.rpartition(".")[2]
            parts = [weights.get(f"{_FIRST_CLASS_HEAD}{part}.{kind}") for part in ("foreground", "other_classes")]
            rows = [part for part in parts if part is not None]
            common[f"class_heads.{config.decoder_layers}.{kind}"] = torch.cat(rows)
        elif name.startswith(_FIRST_BOX_HEAD):
            rest = name.removeprefix(_FIRST_BOX_HEAD)
            common[f"model.decoder.box_heads.{config.decoder_layers}.{rest}"] = tensor
        elif (head := HEAD.fullmatch(name)) and not config.with_box_refine:
            common |= {f"{head[1]}.{layer}.{head[3]}": tensor for layer in range(config.decoder_layers)}
        elif table.numbers_extra_levels and (level := _LEVEL.fullmatch(name)) and int(level[2]) >= _lateral(config):
            common[f"model.neck.extra.{int(level[2]) - _lateral(config)}.{level[3]}"] = tensor
        else:
            common[name] = tensor
    return common


def theirs_from_common(
    weights: Mapping[str, Tensor], config: DeformableDetrRefineConfig, table: NameTable
) -> dict[str, Tensor]:
    """Common names and tensors -> a code base's, in its order, with every second name it gives a tensor."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        their = table.from_common(name)
        if their is None:
            raise CheckpointError(f"There is no place for {name} in the other model.")
        theirs[their] = tensor
        for alias, start, field in table.aliases:
            if their.startswith(start) and getattr(config, field):
                theirs[alias + their.removeprefix(start)] = tensor
    return dict(sorted(theirs.items(), key=lambda item: table.place(item[0])))


def with_neck_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights, with the bias of zeros, which changes nothing, where the neck's convolutions have none."""
    complete: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        complete[name] = tensor
        bias = name.removesuffix("weight") + "bias"
        if _NECK_WEIGHT.fullmatch(name) and bias not in weights:
            complete[bias] = tensor.new_zeros(len(tensor))
    return complete


def unequal_copies(weights: Mapping[str, Tensor], decoder_layers: int) -> str | None:
    """The first head parameter (common name) that differs from layer 0's; None when one head serves all layers."""
    for name, tensor in weights.items():
        if (head := HEAD.fullmatch(name)) and int(head[2]) < decoder_layers:
            first = weights.get(f"{head[1]}.0.{head[3]}")
            if first is None or not torch.equal(first, tensor):
                return name
    return None


def _take_head(
    ours: dict[str, Tensor], weights: Mapping[str, Tensor], head: re.Match[str], config: DeformableDetrRefineConfig
) -> None:
    name, (kind, number, rest) = head[0], head.groups()
    tensor, layer = weights[name], int(number)
    if layer >= config.decoder_layers + config.two_stage:
        raise CheckpointError(f"There is no place for {name} in a model of {config.decoder_layers} decoder layers.")
    if layer == config.decoder_layers and kind != "class_heads":
        ours[f"{_FIRST_BOX_HEAD}{rest}"] = tensor
    elif layer == config.decoder_layers:
        ours[f"{_FIRST_CLASS_HEAD}foreground.{rest}"] = tensor[:1]
        if len(tensor) > 1:
            ours[f"{_FIRST_CLASS_HEAD}other_classes.{rest}"] = tensor[1:]
    elif config.with_box_refine or layer == 0:
        ours[name] = tensor
    elif not torch.equal(tensor, weights[f"{kind}.0.{rest}"]):
        raise CheckpointError(f"{name} differs from layer 0's, but the plain model has one head for all layers.")


def _lateral(config: DeformableDetrRefineConfig) -> int:
    return min(config.num_feature_levels, 3)


__all__ = ["HEAD", "common_from_ours", "ours_from_common", "theirs_from_common", "unequal_copies", "with_neck_bias"]
