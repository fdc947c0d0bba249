"""MMDetection's checkpoints of this family -> a model folder that transformers loads."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import check_new_folder, new_path
from deformable_detr_refine.messages import printable
from deformable_detr_refine.modeling import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)

from ..conversion_report import ConversionReport
from ..label_names import choose_names, read_label_file
from ..model_card import model_card
from .names import name_2x_from_3x
from .settings import resolve_settings
from .shapes import describe_shapes
from .source import MMDetSource, read_source
from .weights import unequal_copies, weights_from_3x, weights_to_3x

_SHOWN = 5
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


def convert_mmdet_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    config: str | Path | None = None,
    classes: str | Path | None = None,
    raw_weights: bool = False,
    num_queries: int | None = None,
    two_stage: bool | None = None,
    with_box_refine: bool | None = None,
    num_heads: int | None = None,
    force: bool = False,
) -> ConversionReport:
    """Convert a checkpoint of MMDetection 3.x or 2.x; nothing in it is executed, and MMDetection is not needed.

    Every tensor of the source is accounted for, and copied value by value. The folder appears whole or not at all.

    Args:
        checkpoint: a `.pth` file (a Runner's, a published one, a bare state dict, zip or legacy), or the MLflow folder
            of Azure's catalogue.
        output: folder to write: config.json, model.safetensors, preprocessor_config.json, README.md.
        config: MMDetection config file, where the checkpoint carries no text; its `_base_` files stand beside it.
        classes: file of class names, one a line or a JSON list. Wins over the checkpoint's own.
        raw_weights: of a checkpoint with averaged weights (EMA), take the raw ones.
        num_queries, two_stage, with_box_refine, num_heads: what shapes do not tell, where there is no config text.
        force: replace `output`, if it is an earlier model folder.

    Raises:
        FileNotFoundError: an input file is missing.
        CheckpointError: the input is no such checkpoint, contradicts itself or the arguments, or `output` is taken.
    """
    output = Path(output)
    check_new_folder(output, force)
    names = [(read_label_file(classes), Path(classes).name)] if classes is not None else []
    source = read_source(Path(checkpoint), None if config is None else Path(config), raw_weights)
    where = str(source.path)
    shapes = describe_shapes({name: tuple(tensor.shape) for name, tensor in source.weights.items()}, where)
    flags = {"num_queries": num_queries, "two_stage": two_stage, "with_box_refine": with_box_refine}
    notes = _check_values(source)
    copies = unequal_copies(source.weights, shapes["decoder_layers"])
    settings = resolve_settings(shapes, source.config, {**flags, "num_heads": num_heads}, copies, where)

    text = source.config
    candidates = [*names, *source.names, (text.class_names if text else None, f"the config ({source.config_from})")]
    labels, labels_from = choose_names(settings.fields.pop("num_labels"), candidates, where)
    model_config = _configuration(settings.fields, labels, where)
    # On the meta device names and shapes cost no memory, however large a crafted file pretends the model to be.
    with torch.device("meta"):
        _check_names_and_shapes(source, DeformableDetrRefineForObjectDetection(model_config))
    model = DeformableDetrRefineForObjectDetection(model_config)
    _load(model, weights_from_3x(source.weights, model_config))

    report = ConversionReport(
        output=str(output),
        source=source.path.name,
        sha256=source.sha256,
        version=source.version,
        weights_from=source.weights_from,
        config_from=source.config_from,
        variant=model_config.variant,
        labels=labels,
        labels_from=labels_from,
        tensors=len(source.weights),
        values=sum(tensor.numel() for tensor in source.weights.values()),
        assumed=settings.assumed,
        notes=notes + (text.notes if text else []),
        written_by={key: source.meta[key] for key in _ORIGIN if key in source.meta},
    )
    with new_path(output) as folder:
        model.save_pretrained(folder)
        DeformableDetrRefineImageProcessor(**(text.processor if text else {})).save_pretrained(folder)
        (folder / "README.md").write_text(model_card(model_config, report.to_dict()), encoding="utf-8")
        # transformers writes the weights readable by their owner only.
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    return report


def _configuration(fields: dict[str, Any], labels: list[str], where: str) -> DeformableDetrRefineConfig:
    id2label = dict(enumerate(labels))
    try:
        return DeformableDetrRefineConfig(
            **fields, id2label=id2label, label2id={name: index for index, name in id2label.items()}
        )
    except (ValueError, StrictDataclassError) as error:
        reason = error.__cause__ if isinstance(error, StrictDataclassError) else error
        raise CheckpointError(f"{where} cannot become a model of this package: {reason or error}") from error


def _check_values(source: MMDetSource) -> list[str]:
    """Check that all values are finite numbers; notes on what the copy will change."""
    changed: set[str] = set()
    for name, tensor in source.weights.items():
        counter = name.endswith("num_batches_tracked")
        if tensor.is_floating_point() == counter or (counter and tensor.is_complex()):
            kind = "whole" if counter else "floating-point"
            raise CheckpointError(f"{source.path}: {source.written_as[name]} holds {tensor.dtype}, not {kind} numbers.")
        if counter:
            continue
        if tensor.dtype != torch.float32:
            changed.add(str(tensor.dtype).removeprefix("torch."))
        # One value that is not finite makes the sum so; counting is four times slower.
        if tensor.float().sum().isfinite():
            continue
        if bad := tensor.numel() - int(tensor.float().isfinite().sum()):
            raise CheckpointError(
                f"{source.path}: {bad} of the {tensor.numel()} values of {source.written_as[name]} are not finite."
            )
    return [f"The source's {kind} values are stored as float32." for kind in sorted(changed)]


def _check_names_and_shapes(source: MMDetSource, model: DeformableDetrRefineForObjectDetection) -> None:
    """Check that the source has the very names and shapes that MMDetection's model of this config has."""
    expected = weights_to_3x(model.state_dict(), model.config)
    missing = [name for name in expected if name not in source.weights]
    if source.version == "2.x":
        missing = [name_2x_from_3x(name) or name for name in missing]
    extra = [printable(source.written_as[name]) for name in source.weights if name not in expected]
    misshapen = [
        f"{printable(source.written_as[name])} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in source.weights.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    found = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("not of this model", extra), ("of another shape", misshapen))
        if names
    ]
    if found:
        raise CheckpointError(
            f"{source.path} is no {model.config.variant} model with {model.config.backbone}: {'; '.join(found)}."
        )


def _load(model: DeformableDetrRefineForObjectDetection, weights: dict[str, Tensor]) -> None:
    """Copy, with the assertions that make the copy complete; what they hold was checked in the source's own words."""
    own = model.state_dict()
    assert own.keys() == weights.keys(), own.keys() ^ weights.keys()
    with torch.no_grad():
        for name, tensor in own.items():
            assert tensor.shape == weights[name].shape, name
            tensor.copy_(weights[name])


__all__ = ["convert_mmdet_checkpoint"]
