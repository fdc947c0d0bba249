"""The authors' repository as a code base: `model` and `args` of what its main.py saves."""

import argparse
from pathlib import Path
from typing import Any

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor

from ..checkpoints.inert import Record
from ..coco_rows import spread_to_91
from ..code_base import CodeBase, Export, save_checkpoint
from ..facts import ConfigFacts
from ..label_names import COCO_91_NAMES, COCO_NAMES
from ..source import Files, Source, entry_of_training, rename, unwrapped
from ..weights import with_neck_bias
from .args import args_of, describe_args, flags_of
from .names import NAMES


class Original(CodeBase):
    name = "original"
    title = "the authors' repository"
    possessive = "the authors'"
    names = NAMES
    mark = r"transformer\.level_embed$|transformer\.(en|de)coder\.layers\.\d+\.(self|cross)_attn\.sampling_offsets\."
    defaults = {
        "num_queries": 300,
        "encoder_attention_heads": 8,
        "decoder_attention_heads": 8,
        "dilation": False,
    }
    processor = {"size_rule": "original", "antialias": True, "clip_boxes": False}

    def files(self, place: Path) -> Files | None:
        # What main.py writes last; its checkpoint0049.pth and others are earlier.
        last = place / "checkpoint.pth"
        return Files(last) if last.is_file() else None

    def entry(self, content: dict[str, Any], path: Path, raw_weights: bool) -> tuple[dict[Any, Any], str]:
        if raw_weights:
            raise CheckpointError(f"{path} has no averaged weights beside raw ones: drop --raw-weights.")
        return entry_of_training(content, path)

    def read(self, files: Files, content: dict[str, Any], config: Path | None, raw_weights: bool) -> Source:
        path = files.weights
        entry, weights_from = self.entry(content, path, raw_weights)
        weights = rename(unwrapped(entry, path), NAMES, path)
        facts, facts_from = _facts(content.get("args"), config, path)
        head = weights.tensors.get("class_heads.0.weight")
        is_coco = head is not None and head.shape[:1] == (len(COCO_91_NAMES),)
        return Source(
            path=path,
            weights=weights,
            weights_from=weights_from,
            facts=facts,
            facts_from=facts_from,
            names=[(list(COCO_91_NAMES) if is_coco else None, "COCO's category ids (the checkpoint has no names)")],
            meta={"epoch": content["epoch"]} if type(content.get("epoch")) is int else {},
        )

    def export(
        self, model: DeformableDetrRefineForObjectDetection, processor: DeformableDetrRefineImageProcessor, output: Path
    ) -> Export:
        config, notes = model.config, []
        args = args_of(config)
        own = model.state_dict()
        if [config.id2label[index] for index in range(config.num_labels)] == list(COCO_NAMES):
            own = spread_to_91(own)
        weights = self.theirs(with_neck_bias(own), config)
        outputs = len(weights["class_embed.0.bias"])
        if outputs != config.num_labels:
            notes.append("COCO's 80 classes stand at their category ids among the authors' 91 outputs.")
        elif outputs != len(COCO_91_NAMES):
            notes.append(
                f"The authors' code has 91 outputs for COCO and 20 else: set num_classes = {outputs} in its "
                "models/deformable_detr.py."
            )
        args["dataset_file"] = "coco" if outputs == len(COCO_91_NAMES) else "custom"
        if args["backbone"] in ("resnet18", "resnet34"):
            notes.append(
                f"The authors' code asserts against {args['backbone']}: its channel numbers are those of ResNet-50."
            )
        if flags := flags_of(args):
            notes.append(f"Its main.py builds this model with {flags}.")
        if (processor.size_rule, processor.antialias, processor.clip_boxes) != tuple(self.processor.values()):
            notes.append("The authors' code prepares images in its own way; on equal pixels it computes the same.")
        # As its training loop writes it; whoever loads it with weights_only has to permit argparse.Namespace.
        save_checkpoint({"model": weights, "args": argparse.Namespace(**args)}, output)
        return Export(weights, notes)


def _facts(args: Any, given: Path | None, path: Path) -> tuple[ConfigFacts | None, str | None]:
    if given is not None:
        return describe_args(read_json(given), str(given), given.name), given.name
    speaker = "its args"  # forks save vars(args), a plain dictionary
    if isinstance(args, Record) and args.source == "argparse.Namespace":
        args, speaker = args.state, "the Namespace of its args"
    if not isinstance(args, dict):
        return None, None
    return describe_args(args, str(path), speaker), "the checkpoint's own args"


__all__ = ["Original"]
