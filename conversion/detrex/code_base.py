"""detrex as a code base: `model` or `ema_state` of what its training loop saves, and config.yaml beside it."""

from pathlib import Path
from typing import Any

from deformable_detr_refine.errors import CheckpointError

from ..code_base import CodeBase
from ..facts import ConfigFacts
from ..source import Files, Source, entry_of_training, rename, unwrapped
from .config import describe_config, is_detrex
from .names import NAMES
from .yaml_file import read_yaml

CONFIG = "config.yaml"


class Detrex(CodeBase):
    name = "detrex"
    title = "detrex"
    possessive = "detrex's"
    names = NAMES
    mark = r"transformer\.level_embeds$|transformer\.encoder\.layers\.\d+\.attentions\.0\.sampling_offsets\."
    defaults = {"num_queries": 300, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    fields = {"inverse_sigmoid_eps": 1e-3, "backbone_frozen_stages": 0, "class_loss_coefficient": 1.0}
    processor = {"size_rule": "mmdet", "antialias": True, "clip_boxes": True, "top_k": 300}
    beside = (CONFIG,)
    writes = None

    def files(self, folder: Path) -> Files | None:
        if not (folder / CONFIG).is_file() or not is_detrex(read_yaml(folder / CONFIG)):
            return None
        weights = sorted(folder.glob("*.pth"))
        # What detectron2's checkpointer wrote last, or at the end.
        for name in ("model_final.pth", _last(folder)):
            weights = [folder / name] if name and folder / name in weights else weights
        if len(weights) != 1:
            files = f"several: {', '.join(file.name for file in weights[:4])}" if weights else "none"
            raise CheckpointError(f"{folder} should hold one file of weights, and holds {files}; give the file itself.")
        return Files(weights[0], folder / CONFIG)

    def entry(self, content: dict[str, Any], path: Path, raw_weights: bool) -> tuple[dict[Any, Any], str]:
        raw, averaged = content.get("model"), content.get("ema_state")
        if isinstance(averaged, dict) and averaged and isinstance(raw, dict):
            return (raw, "model (the raw weights)") if raw_weights else (averaged, "ema_state (the averaged weights)")
        if raw_weights:
            raise CheckpointError(f"{path} has no averaged weights beside raw ones (no ema_state): drop --raw-weights.")
        return entry_of_training(content, path)

    def read(self, files: Files, content: dict[str, Any], config: Path | None, raw_weights: bool) -> Source:
        path = files.weights
        entry, weights_from = self.entry(content, path, raw_weights)
        facts, facts_from = _facts(config or files.config, path)
        return Source(
            path=path,
            weights=rename(unwrapped(entry, path), NAMES, path),
            weights_from=weights_from,
            facts=facts,
            facts_from=facts_from,
            meta={"iteration": content["iteration"]} if type(content.get("iteration")) is int else {},
        )


def _facts(config: Path | None, path: Path) -> tuple[ConfigFacts | None, str | None]:
    if config is None:
        beside = path.parent / CONFIG
        if not beside.is_file() or not is_detrex(content := read_yaml(beside)):
            return None, None
        return describe_config(content, str(beside)), f"{CONFIG} beside it"
    if config.suffix not in (".yaml", ".yml"):
        raise CheckpointError(f"{config} would have to be executed; give the {CONFIG} that detrex's training writes.")
    return describe_config(read_yaml(config), str(config)), config.name


def _last(folder: Path) -> str:
    """What the file last_checkpoint names, if that is a plain name."""
    note = folder / "last_checkpoint"
    name = note.read_text(encoding="utf-8", errors="replace").strip() if note.is_file() else ""
    return name if name == Path(name).name else ""


__all__ = ["Detrex"]
