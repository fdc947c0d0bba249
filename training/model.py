"""The detector that a run trains: a new one, or a trained one with its heads made for the data's classes."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from deformable_detr_refine.data.label_map import LabelMap
from deformable_detr_refine.inference.load_model import load_model, load_processor, refuse_int8
from deformable_detr_refine.messages import counted, near
from deformable_detr_refine.modeling import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)
from deformable_detr_refine.modeling.backbone import WEIGHT_FILES

from .arguments import DataArguments, ModelArguments
from .surgery import transfer

# What `improved_recipe` sets; benchmarks/RECIPES.md has the measurements. A trained detector keeps its kind of queries.
IMPROVED: dict[str, Any] = {"quality_target": 0.25, "class_loss_coefficient": 1.0}
IMPROVED_WHEN_NEW: dict[str, Any] = {**IMPROVED, "mixed_query_selection": True}


def build_model(
    args: ModelArguments, label_map: LabelMap, keep_class_heads: bool = True
) -> tuple[DeformableDetrRefineForObjectDetection, str]:
    """The detector for these classes, and a sentence on where its weights come from.

    Raises:
        ValueError: `model_config` is not JSON or names a field that there is not; the model is in
            int8; weights are damaged or do not fit.
        OSError: the model cannot be read.
    """
    classes = {
        "id2label": label_map.id2label,
        "label2id": label_map.label2id,
        "category_ids": list(label_map.category_ids),
        "score_threshold": None,  # of other data
    }
    fields = _with_recipe(_fields(args.model_config), args)
    if args.model is None:
        model = DeformableDetrRefineForObjectDetection(_config({**fields, **classes}))
        said = "A new detector"
        if args.backbone_weights:
            name = model.config.backbone if args.backbone_weights == "pretrained" else args.backbone_weights
            try:
                model.load_backbone_weights(name)
            except FileNotFoundError as error:
                if Path(name).suffix in WEIGHT_FILES:
                    raise FileNotFoundError(f"There is no file of backbone weights {name}{near(name)}") from error
                raise FileNotFoundError(
                    f"The ImageNet weights of {name} are not in the cache, and the Hub, which has timm's, cannot be "
                    "reached: give a file of them, --backbone_weights FILE."
                ) from error
            said += f" on a backbone with the weights of {name}"
        else:
            said += " with random weights, the backbone's too"
        if args.improved_recipe and not model.config.two_stage:
            said += "; improved_recipe adds no learned queries to it, since they need two_stage"
        return _frozen(model, args.freeze), f"{said}."
    trained = load_model(args.model, revision=args.revision)
    refuse_int8(trained.config, args.model, "training")
    model = DeformableDetrRefineForObjectDetection(_config({**trained.config.to_dict(), **fields, **classes}))
    copied = transfer(trained, model, keep_class_heads)
    known = f"{', '.join(copied[:5])}{' ...' if len(copied) > 5 else ''}" if copied else "none"
    classes_here = counted(len(label_map), "class", "classes")
    return _frozen(model, args.freeze), f"{args.model}, which knows {known} of the {classes_here} here."


def _with_recipe(fields: dict[str, Any], args: ModelArguments) -> dict[str, Any]:
    """Fields of the config, with those of `improved_recipe` that are not given."""
    if not args.improved_recipe:
        return fields
    recipe = dict(IMPROVED_WHEN_NEW if args.model is None and fields.get("two_stage", True) else IMPROVED)
    if fields.get("quality_target", True) is None:
        del recipe["class_loss_coefficient"]  # which is this target's
    return {**recipe, **fields}


def build_processor(model_args: ModelArguments, data_args: DataArguments) -> DeformableDetrRefineImageProcessor:
    """The model's own image processor, or MMDetection's, with the size that was asked for."""
    sizes: dict[str, Any] = {}
    if data_args.shortest_edge:
        longest = data_args.longest_edge or round(data_args.shortest_edge * 1333 / 800)
        sizes = {"size": {"shortest_edge": data_args.shortest_edge, "longest_edge": longest}}
    if model_args.model is None:
        return DeformableDetrRefineImageProcessor(**sizes)
    name = model_args.model
    try:
        return load_processor(name, revision=model_args.revision, **sizes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"--model: {error}") from error
    except OSError as error:
        if Path(name).exists():
            raise
        raise OSError(f"--model {name} is no folder here, and the Hub does not give it: {error}") from error


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model_config is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"model_config is {text}, expected fields of DeformableDetrRefineConfig with their values.")
    known = DeformableDetrRefineConfig().to_dict()
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"model_config has {unknown[0]!r}, which is no field of DeformableDetrRefineConfig.")
    return fields


def _config(fields: dict[str, Any]) -> DeformableDetrRefineConfig:
    try:
        config = DeformableDetrRefineConfig(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"model_config cannot be used: {error.__cause__ or error}") from error
    refuse_int8(config, "model_config", "training")
    return config


def _frozen(model: DeformableDetrRefineForObjectDetection, parts: list[str]) -> DeformableDetrRefineForObjectDetection:
    for part in parts:
        frozen = [parameter for name, parameter in model.named_parameters() if part in name]
        if not frozen:
            raise ValueError(f"freeze: no parameter of the model has {part!r} in its name.")
        for parameter in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze: {', '.join(parts)} leave nothing of the model to train.")
    return model
