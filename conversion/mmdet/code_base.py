"""MMDetection 3.x and 2.x as a code base: where the weights, the config text and the class names are."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor

from ..checkpoints.azure_folder import read_azure_folder
from ..code_base import CodeBase, Export, save_checkpoint
from ..facts import ConfigFacts
from ..label_names import names_in
from ..mmdet_config.facts import describe_config
from ..mmdet_config.text import read_config_file, read_config_text
from ..mmdet_config.writer import mmdet_config_text
from ..source import Files, Source, rename, unwrapped
from .names import NAMES_3X, is_2x, name_2x_from_3x, name_3x_from_2x
from .weights import weights_to_3x

# Told by the config only, so nothing else can show that the wrong one was given.
_UNSEEN = ("with_box_refine", "num_queries", "encoder_attention_heads", "decoder_attention_heads")
# What a meta says about its own origin, in both versions.
_ORIGIN = (
    "mmengine_version",
    "mmdet_version",
    "mmcv_version",
    "experiment_name",
    "time",
    "epoch",
    "iter",
    "exported_by",
)


class MMDetection(CodeBase):
    name = "mmdet"
    title = "MMDetection"
    possessive = "MMDetection's"
    names = NAMES_3X
    mark = r"bbox_head\.|memory_trans_|(en|de)coder\.layers\.\d+\.(self_attn|norms)\."
    defaults = {"num_queries": 300, "encoder_attention_heads": 8, "decoder_attention_heads": 8}

    def files(self, place: Path) -> Files | None:
        # A model of transformers may have other files beside, which are not what is meant.
        is_other = (place / "config.json").is_file() and any(place.glob("*.safetensors"))
        if is_other or not place.is_dir() or (files := read_azure_folder(place)) is None:
            return None
        weights, config, names = files
        return Files(weights, config, (names, "model_metadata.json"))

    def entry(self, content: dict[str, Any], path: Path, raw_weights: bool) -> tuple[dict[Any, Any], str]:
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

    def read(self, files: Files, content: dict[str, Any], config: Path | None, raw_weights: bool) -> Source:
        path = files.weights
        own = content.get("meta")
        meta: dict[str, Any] = own if isinstance(own, dict) else {}
        entry, weights_from = self.entry(content, path, raw_weights)
        tensors = unwrapped(entry, path)
        older = is_2x(tensors)
        weights = rename(tensors, NAMES_3X, path, _common, _as_2x if older else None)
        facts, facts_from = _config(meta, config or files.config, path)
        return Source(
            path=path,
            weights=weights,
            weights_from=weights_from,
            version="2.x" if older else "3.x",
            facts=facts,
            facts_from=facts_from,
            names=[
                (names_in(meta.get("dataset_meta")), "the checkpoint's dataset_meta"),
                (names_in(meta), "the checkpoint's CLASSES"),
                files.names,
            ],
            meta={key: meta[key] for key in _ORIGIN if isinstance(meta.get(key), (str, int, float))},
        )

    def export(
        self, model: DeformableDetrRefineForObjectDetection, processor: DeformableDetrRefineImageProcessor, output: Path
    ) -> Export:
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        weights = weights_to_3x(model.state_dict(), model.config)
        meta = {
            "cfg": mmdet_config_text(model.config, processor, labels),
            "dataset_meta": {"CLASSES": tuple(labels), "classes": tuple(labels)},
            "exported_by": f"deformable-detr-refine {version('deformable-detr-refine')}",
        }
        save_checkpoint({"meta": meta, "state_dict": weights}, output)
        notes = []
        if (processor.size_rule, processor.antialias, processor.clip_boxes) != ("mmdet", False, True):
            notes.append("MMDetection prepares images in its own way; on equal pixels it computes the same.")
        return Export(weights, notes)


def _common(name: str) -> str | None:
    return NAMES_3X.to_common(name_3x_from_2x(name) or name)


def _as_2x(common: str) -> str | None:
    modern = NAMES_3X.from_common(common)
    return modern and (name_2x_from_3x(modern) or modern)


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


__all__ = ["MMDetection"]
