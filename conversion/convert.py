"""Checkpoints of this family, whoever wrote them -> a model folder that transformers loads. One path for all."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import check_new_folder, new_path, sha256_of
from deformable_detr_refine.messages import without_progress_bars
from deformable_detr_refine.modeling import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)

from .checks import check_names_and_shapes, check_values
from .coco_rows import keep_80
from .code_base import CodeBase
from .code_bases import code_base_named, read_source
from .conversion_report import ConversionReport
from .download.place import Place, locate
from .download.published import published_by_digest
from .facts import ConfigFacts
from .label_names import COCO_91_NAMES, COCO_IDS, COCO_NAMES, choose_names, read_label_file
from .model_card import model_card
from .settings import ModelSettings, resolve_settings
from .shapes import describe_shapes
from .source import Source
from .weights import ours_from_common, unequal_copies


def convert_checkpoint(
    source: str | Path,
    output: str | Path,
    code_base: str | None = None,
    *,
    config: str | Path | None = None,
    classes: str | Path | None = None,
    coco80: bool = False,
    raw_weights: bool = False,
    num_queries: int | None = None,
    two_stage: bool | None = None,
    with_box_refine: bool | None = None,
    num_heads: int | None = None,
    revision: str | None = None,
    force: bool = False,
) -> ConversionReport:
    """Convert a checkpoint of Deformable DETR; nothing in it is executed, and the code that wrote it is not needed.

    Every tensor of the source is accounted for, and copied value by value. The folder appears whole or not at all.

    Args:
        source: a file or a folder; or, to be fetched, the name of a published checkpoint (`ddetr convert --list`), a
            URL, or OWNER/NAME on the Hub.
        output: folder to write: config.json, model.safetensors, preprocessor_config.json, README.md.
        code_base: 'mmdet', 'original', 'transformers' or 'detrex'; found by looking if None.
        config: its config file, where the checkpoint carries none.
        classes: file of class names, one a line or a JSON list. Wins over the checkpoint's own.
        coco80: of a model with an output for each of COCO's 91 category ids, keep the 80 that are classes.
        raw_weights: of a checkpoint with averaged weights (EMA), take the raw ones.
        num_queries, two_stage, with_box_refine, num_heads: what shapes do not tell, where there is no config.
        revision: branch, tag or commit, for a name on the Hub.
        force: replace `output`, if it is an earlier model folder.

    Raises:
        FileNotFoundError: an input file is missing.
        OSError: it cannot be fetched.
        CheckpointError: the input is no such checkpoint, contradicts itself or the arguments, or `output` is taken.
    """
    check_new_folder(Path(output), force, source)
    return convert_place(
        locate(source, revision),
        Path(output),
        code_base,
        config=config,
        classes=classes,
        coco80=coco80,
        raw_weights=raw_weights,
        num_queries=num_queries,
        two_stage=two_stage,
        with_box_refine=with_box_refine,
        num_heads=num_heads,
    )


def convert_place(
    place: Place,
    output: Path,
    code_base: str | None = None,
    *,
    config: str | Path | None = None,
    classes: str | Path | None = None,
    coco80: bool = False,
    raw_weights: bool = False,
    **flags: Any,
) -> ConversionReport:
    """`convert_checkpoint` of what was located, into a folder that may be written."""
    names = [(read_label_file(classes), Path(classes).name)] if classes is not None else []
    given = None if code_base is None else code_base_named(code_base)
    kind, checkpoint = read_source(place.path, given, None if config is None else Path(config), raw_weights)
    where, sha256 = str(checkpoint.path), sha256_of(*(checkpoint.parts or [checkpoint.path]))
    published = place.published or published_by_digest(sha256)
    fields = published.fields if published else {}
    if published and checkpoint.facts is None:
        checkpoint.facts = ConfigFacts(fields, speaker=f"the name {published.name}")
        checkpoint.facts_from = f"none in the file; it is the published {published.name}"
    notes = check_values(checkpoint)
    settings = _settings(checkpoint, kind, flags, where)
    for name, value in fields.items():
        if settings.fields[name] != value:
            raise CheckpointError(f"{where} has {name}={settings.fields[name]}, but is published with {value}.")
    facts = checkpoint.facts
    candidates = [
        *names,
        *checkpoint.names,
        (facts.class_names if facts else None, f"the config ({checkpoint.facts_from})"),
    ]
    outputs = settings.fields.pop("num_labels")
    if coco80 and outputs != len(COCO_91_NAMES):
        raise CheckpointError(f"{where} has {outputs} outputs, and --coco80 chooses among 91: drop it.")
    labels, labels_from = choose_names(outputs, candidates, where)
    model_config = _configuration(settings.fields, labels, where)
    check_names_and_shapes(checkpoint, kind.expected(model_config), model_config)
    weights = ours_from_common(checkpoint.weights.tensors, model_config)
    if coco80:
        weights, labels, labels_from = keep_80(weights), list(COCO_NAMES), "COCO's 80 names (--coco80)"
        model_config = _configuration({**settings.fields, "category_ids": list(COCO_IDS)}, labels, where)
    model = DeformableDetrRefineForObjectDetection(model_config)
    _load(model, weights)

    report = ConversionReport(
        output=str(output),
        source=checkpoint.path.name,
        sha256=sha256,
        fetched_from=place.fetched_from,
        published=published.name if published else None,
        code_base=kind.title,
        version=checkpoint.version,
        weights_from=checkpoint.weights_from,
        config_from=checkpoint.facts_from,
        variant=model_config.variant,
        labels=labels,
        labels_from=labels_from,
        tensors=len(checkpoint.weights.tensors),
        values=sum(tensor.numel() for tensor in checkpoint.weights.tensors.values()),
        assumed=settings.assumed,
        notes=notes + checkpoint.notes + (facts.notes if facts else []),
        written_by=checkpoint.meta,
    )
    processor = kind.processor | (facts.processor if facts else {})
    with new_path(output) as folder, without_progress_bars():
        model.save_pretrained(folder)
        DeformableDetrRefineImageProcessor(**processor).save_pretrained(folder)
        (folder / "README.md").write_text(model_card(model_config, report), encoding="utf-8")
        # transformers writes the weights readable by their owner only.
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    return report


def _settings(checkpoint: Source, kind: CodeBase, flags: dict[str, Any], where: str) -> ModelSettings:
    shapes = describe_shapes(checkpoint.weights, f"{kind.possessive} Deformable DETR", where)
    copies = unequal_copies(checkpoint.weights.tensors, shapes["decoder_layers"])
    copies = copies and checkpoint.weights.written(copies)
    return resolve_settings(shapes | checkpoint.weights.told, checkpoint.facts, flags, copies, kind, where)


def _configuration(fields: dict[str, Any], labels: list[str], where: str) -> DeformableDetrRefineConfig:
    id2label = dict(enumerate(labels))
    try:
        return DeformableDetrRefineConfig(
            **fields, id2label=id2label, label2id={name: index for index, name in id2label.items()}
        )
    except (ValueError, StrictDataclassError) as error:
        reason = error.__cause__ if isinstance(error, StrictDataclassError) else error
        raise CheckpointError(f"{where} cannot become a model of this package: {reason or error}") from error


def _load(model: DeformableDetrRefineForObjectDetection, weights: dict[str, Tensor]) -> None:
    """Copy, with the assertions that make the copy complete; what they hold was checked in the source's own words."""
    own = model.state_dict()
    lacking = {name for name in own.keys() - weights.keys() if not name.endswith(".num_batches_tracked")}
    assert not lacking and weights.keys() <= own.keys(), lacking or weights.keys() - own.keys()
    with torch.no_grad():
        for name, tensor in own.items():
            if name in weights:
                assert tensor.shape == weights[name].shape, name
                tensor.copy_(weights[name])


__all__ = ["convert_checkpoint", "convert_place"]
