"""Stock transformers as a code base: config.json, weights in one of four forms, the settings of the image processor."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor

from ..code_base import CodeBase, Export
from ..source import Files, Source, Weights, entry_of_training, rename, unwrapped
from ..weights import HEAD, with_neck_bias
from .config import MODEL_TYPE, describe_config
from .folder import WEIGHT_FILES, model_type_of, open_weights, weight_parts, weights_in
from .names import NAMES, has_hf_resnet, to_common
from .processor import ALWAYS, foreign_kind, processor_settings
from .written import written_config, written_processor, written_weights

_LAYER = re.compile(r"model\.decoder\.layers\.(\d+)\.")


class StockTransformers(CodeBase):
    name = "transformers"
    title = "transformers"
    possessive = "stock transformers'"
    names = NAMES
    mark = r"(model\.)?(decoder\.layers\.\d+\.encoder_attn\.|query_position_embeddings\.)"
    processor = ALWAYS
    signs_folders = True
    beside = ("config.json", "preprocessor_config.json")
    writes = "folder"

    def files(self, place: Path) -> Files | None:
        folder = place if place.is_dir() else place.parent
        weights = weights_in(place) if place.is_dir() else place if place.name in WEIGHT_FILES else None
        if weights is None or model_type_of(folder) != MODEL_TYPE:
            return None
        return Files(weights, folder / "config.json")

    def open(self, files: Files) -> dict[str, Tensor]:
        return open_weights(files.weights)

    def entry(self, content: dict[str, Any], path: Path, raw_weights: bool) -> tuple[dict[Any, Any], str]:
        if raw_weights:
            raise CheckpointError(f"{path} has no averaged weights beside raw ones: drop --raw-weights.")
        weights, entry = entry_of_training(content, path)
        return weights, "the file itself" if weights is content else entry

    def read(self, files: Files, content: dict[str, Any], config: Path | None, raw_weights: bool) -> Source:
        path = files.weights
        entry, weights_from = self.entry(content, path, raw_weights)
        config = config or files.config or path.parent / "config.json"
        if not config.is_file():
            raise CheckpointError(
                f"{path} needs the config.json that transformers writes beside it, which is not there; give --config."
            )
        facts = describe_config(read_json(config), str(config))
        processor = path.parent / "preprocessor_config.json"
        settings = read_json(processor) if processor.is_file() else {}
        facts.processor = processor_settings(settings, facts.version, str(processor))
        tensors = unwrapped(entry, path, own="model.")
        if has_hf_resnet(list(tensors)) != (facts.fields["backbone_frozen_stages"] == 4):
            raise CheckpointError(
                f"{path} holds another kind of ResNet (timm's, or transformers' own) than {config} says."
            )
        weights = rename(tensors, NAMES, path, to_common)
        _complete_heads(weights)
        parts = weight_parts(path)
        notes = []
        if not settings:
            notes.append(f"There is no {processor.name}, so that images are resized as stock does by default.")
        if kind := foreign_kind(settings):
            notes.append(f"{processor.name} is of a {kind}; of it size, normalisation and padding are taken.")
        return Source(
            path=path,
            weights=weights,
            weights_from=weights_from if parts == [path] else f"{len(parts)} shards",
            parts=parts,
            version=facts.version,
            facts=facts,
            facts_from=config.name,
            names=[(facts.class_names, "id2label of config.json")],
            notes=notes,
        )

    def export(
        self, model: DeformableDetrRefineForObjectDetection, processor: DeformableDetrRefineImageProcessor, output: Path
    ) -> Export:
        config, notes = written_config(model.config, str(model.dtype).removeprefix("torch."))
        settings, more = written_processor(processor)
        weights = written_weights(self.theirs(with_neck_bias(model.state_dict()), model.config), model.config)
        output.mkdir()
        save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
        for name, values in (("config.json", config), ("preprocessor_config.json", settings)):
            (output / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return Export(weights, notes + more)


def _complete_heads(weights: Weights) -> None:
    """Of heads that are one tensor a file may hold layer 0's alone; the others then are that one."""
    layers = {layer[1] for name in weights.tensors if (layer := _LAYER.match(name))}
    count = len(layers) + any(name.startswith("model.first_stage.") for name in weights.tensors)
    heads: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name, tensor in weights.tensors.items():
        if head := HEAD.fullmatch(name):
            heads.setdefault(head[1], {}).setdefault(head[2], {})[head[3]] = tensor
    for kind, by_layer in heads.items():
        if by_layer.keys() == {"0"}:
            weights.tensors |= {
                f"{kind}.{layer}.{rest}": tensor for layer in range(1, count) for rest, tensor in by_layer["0"].items()
            }


__all__ = ["StockTransformers"]
