"""Find the weights, the config text and the class names in what a user has of MMDetection's."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.messages import printable

from ..checkpoints.azure_folder import read_azure_folder
from ..checkpoints.open_checkpoint import open_checkpoint
from ..label_names import names_in
from ..mmdet_config.facts import ConfigFacts, describe_config
from ..mmdet_config.text import read_config_file, read_config_text
from .names import is_2x, name_3x_from_2x

# Told by the config only, so nothing else can show that the wrong one was given.
_UNSEEN = ("with_box_refine", "num_queries", "encoder_attention_heads", "decoder_attention_heads")
_WRAPPERS = ("module.", "model.")


@dataclass
class MMDetSource:
    """
    Attributes:
        path: the file of weights.
        weights: name in MMDetection 3.x's form -> tensor.
        written_as: name in 3.x's form -> name in the file.
        weights_from: which entry of the file they are.
        version: '3.x' or '2.x', by the names.
        meta: what the file says about itself, plain values only.
        config: what the config says, or None without one.
        config_from: where the config was found.
        names: candidates for the class names, best first, each with its origin.
        sha256: of the file.
    """

    path: Path
    weights: dict[str, Tensor]
    written_as: dict[str, str]
    weights_from: str
    version: str
    meta: dict[str, Any]
    config: ConfigFacts | None
    config_from: str | None
    names: list[tuple[list[str] | None, str]]
    sha256: str


def read_source(checkpoint: Path, config: Path | None, raw_weights: bool) -> MMDetSource:
    """Read a `.pth` file of MMDetection's, or Azure's MLflow folder around one.

    Raises:
        FileNotFoundError, CheckpointError: see `open_checkpoint`; and for weights that are no plain tensors.
    """
    folder_names: list[str] | None = None
    if checkpoint.is_dir():
        checkpoint, config_beside, folder_names = read_azure_folder(checkpoint)
        config = config or config_beside
    content = open_checkpoint(checkpoint)
    meta = content.get("meta") if isinstance(content.get("meta"), dict) else {}
    found, weights_from = _state_dict(content, checkpoint, raw_weights)
    weights, written_as = _renamed(_tensors(found, checkpoint), checkpoint)
    facts, config_from = _config(meta, config, checkpoint)
    return MMDetSource(
        path=checkpoint,
        weights=weights,
        written_as=written_as,
        weights_from=weights_from,
        version="2.x" if is_2x(written_as.values()) else "3.x",
        meta={key: value for key, value in meta.items() if isinstance(value, (str, int, float))},
        config=facts,
        config_from=config_from,
        names=[
            (names_in(meta.get("dataset_meta")), "the checkpoint's dataset_meta"),
            (names_in(meta), "the checkpoint's CLASSES"),
            (folder_names, "model_metadata.json"),
        ],
        sha256=_sha256(checkpoint),
    )


def _state_dict(content: dict[str, Any], path: Path, raw_weights: bool) -> tuple[dict[str, Any], str]:
    if raw_weights:
        raw = content.get("ema_state_dict")
        if not isinstance(raw, dict):
            raise CheckpointError(
                f"{path} has no raw weights beside averaged ones (no ema_state_dict): drop --raw-weights."
            )
        # The averaging hook counts its steps among the weights.
        raw = {name: value for name, value in raw.items() if name != "steps"}
        return raw, "ema_state_dict (the raw weights)"
    averaged = " (the averaged weights)" if "ema_state_dict" in content else ""
    if isinstance(content.get("state_dict"), dict):
        return content["state_dict"], f"state_dict{averaged}"
    if "state_dict" in content or ("meta" in content and not isinstance(content["meta"], Tensor)):
        raise CheckpointError(f"{path} has no state_dict of weights.")
    return content, "the file itself (a bare state dict)"


def _tensors(found: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise CheckpointError(
                f"{path}: {printable(str(name))} is a {kind}, not a tensor, so this is no state dict."
            )
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise CheckpointError(
                f"{path}: {printable(name)} is not an ordinary tensor (sparse, quantized or without data)."
            )
        # A tensor may repeat one value without end, and nothing honest does.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {printable(name)} has the shape {tuple(value.shape)}, but not so many values."
            )
        weights[name] = value.detach()
    return weights


def _renamed(weights: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """In 3.x's names, without what a wrapping class put before all of them."""
    prefix = ""
    for wrapper in _WRAPPERS:
        if weights and all(name.startswith(prefix + wrapper) for name in weights):
            prefix += wrapper
    written_as: dict[str, str] = {}
    for name in weights:
        short = name.removeprefix(prefix)
        modern = name_3x_from_2x(short) or short
        if modern in written_as:
            raise CheckpointError(f"{path} holds {modern} twice, as {written_as[modern]} and as {name}.")
        written_as[modern] = name
    return {modern: weights[name] for modern, name in written_as.items()}, written_as


def _config(meta: dict[str, Any], given: Path | None, path: Path) -> tuple[ConfigFacts | None, str | None]:
    # 3.x calls it cfg, 2.x config.
    key = next((key for key in ("cfg", "config") if isinstance(meta.get(key), (str, dict)) and meta[key]), None)
    if given is None:
        if key is None:
            return None, None
        return _describe(meta[key], f"{path}: meta[{key!r}]"), f"the checkpoint's own text (meta[{key!r}])"
    facts = describe_config(read_config_file(given), str(given))
    if key is not None:
        _agree(facts, meta[key], given, path)
    return facts, given.name


def _describe(config: str | dict[str, Any], where: str) -> ConfigFacts:
    return describe_config(read_config_text(config, where) if isinstance(config, str) else config, where)


def _agree(given: ConfigFacts, own: str | dict[str, Any], config: Path, path: Path) -> None:
    try:
        theirs = _describe(own, str(path)).fields
    except CheckpointError:
        return  # A config is given because the checkpoint's own cannot be read.
    for name in _UNSEEN:
        if name in given.fields and name in theirs and given.fields[name] != theirs[name]:
            raise CheckpointError(
                f"{config} says {name}={given.fields[name]!r}, but the config text in {path} {theirs[name]!r}."
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["MMDetSource", "read_source"]
