"""`ddetr info`: what a detector is, how large it is, and what an image costs it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .arguments import add_json, add_model_and_size, add_revision
from .default_model import default_model

DESCRIPTION = """\
Prints a detector's family and classes, its parameters and operations part by part, and how it was trained where its
folder tells (settings.yaml, trainer_state.json, metrics.json).

Operations are counted, not measured: convolutions, matrix products and the samples of deformable attention, for one
image. GFLOPs count a multiply-add as two operations, GMACs as one; MMDetection's get_flops.py and most papers print
the latter and call them FLOPs.
"""
EXAMPLES = """\
examples:
  ddetr info detector
  ddetr info detector --size 800x1280
  ddetr info detector --json | python -m json.tool
"""
# What MMDetection's tables are made with: a photo that the default processor leaves as it is.
PHOTO = (800, 1333)
MOST_LABELS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_and_size(parser)
    add_revision(parser)
    add_json(parser, "print one JSON document")


def run(args: argparse.Namespace) -> int:
    report = examine(args.model or str(default_model()), args.size, args.revision)
    print(json.dumps(report, indent=2, ensure_ascii=False) if args.json else _text(report))
    return 0


def examine(name: str, size: tuple[int, int] | None = None, revision: str | None = None) -> dict[str, Any]:
    """Everything that `ddetr info` prints, as one JSON document."""
    from deformable_detr_refine.evaluation.cost import model_cost
    from deformable_detr_refine.inference.load_detector import load_detector

    model, processor = load_detector(name, "cpu", revision)
    config = model.config
    cost = model_cost(model, *(size or processor.resized_shape(*PHOTO)))
    return {
        "model": name,
        "variant": config.variant,
        "backbone": config.backbone,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "width": config.d_model,
        "queries": config.num_queries,
        "labels": [config.id2label[label] for label in range(config.num_labels)],
        "processor_size": dict(processor.size),
        "image": {"height": cost.height, "width": cost.width},
        "parts": [{"part": p.name, "parameters": p.parameters, "gflops": p.flops / 1e9} for p in cost.parts],
        "parameters": cost.parameters,
        "gflops": cost.flops / 1e9,
        "gmacs": cost.flops / 2e9,
        "sampling_gflops": cost.sampling_flops / 1e9,
        "training": _training(Path(name)),
    }


def _training(folder: Path) -> dict[str, Any] | None:
    """What lies beside the weights: settings, steps and epochs, and the metrics of an evaluation."""
    from deformable_detr_refine.evaluation.metrics.coco import COCO_METRICS
    from deformable_detr_refine.training.card_facts import read_facts

    facts = read_facts(folder)
    training: dict[str, Any] = {}
    if facts.settings:
        training["settings"] = dict(facts.settings)
    if facts.state:
        training |= {
            key: facts.state[name]
            for key, name in (("steps", "global_step"), ("epochs", "epoch"))
            if name in facts.state
        }
    if facts.metrics:
        training["metrics"] = {key: facts.metrics[key] for key in COCO_METRICS if key in facts.metrics}
    return training or None


def _text(report: dict[str, Any]) -> str:
    encoder, decoder, width = (report[key] for key in ("encoder_layers", "decoder_layers", "width"))
    size = report["processor_size"]
    asked = " x ".join(f"{name.replace('_', ' ')} {value}" for name, value in size.items() if value)
    rows = [
        ("family", f"Deformable DETR, {report['variant']}"),
        ("backbone", report["backbone"]),
        ("layers", f"{encoder} encoder and {decoder} decoder layers of {width} channels"),
        ("queries", str(report["queries"])),
        ("classes", f"{len(report['labels'])}: {_list(report['labels'])}"),
        ("images", f"{asked} at most; counted below: {report['image']['height']}x{report['image']['width']}"),
        *_training_rows(report["training"]),
    ]
    lines = [report["model"], *(f"  {name:<12}{value}" for name, value in rows), ""]
    parts = [(part["part"], part["parameters"], part["gflops"]) for part in report["parts"]]
    lines.append(f"  {'part':<12}{'parameters':>14}{'GFLOPs':>10}{'GMACs':>10}")
    for name, parameters, gflops in [*parts, ("all", report["parameters"], report["gflops"])]:
        lines.append(f"  {name:<12}{parameters:>14,}{gflops:>10.2f}{gflops / 2:>10.2f}")
    lines += [
        "",
        f"  {report['sampling_gflops']:.2f} GFLOPs of these are the samples of deformable attention. GFLOPs count a",
        "  multiply-add as two operations, GMACs as one (what papers and MMDetection's tool call FLOPs).",
    ]
    return "\n".join(lines)


def _training_rows(training: dict[str, Any] | None) -> list[tuple[str, str]]:
    if training is None:
        return [("training", "nothing in the folder tells")]
    from deformable_detr_refine.messages import printable

    settings, metrics = training.get("settings", {}), training.get("metrics", {})
    done = [f"{training['steps']:,} steps"] if "steps" in training else []
    if epochs := training.get("epochs") or settings.get("num_train_epochs"):
        done.append(f"{epochs:.4g} epochs")
    told = [("data", "on {}"), ("learning_rate", "learning rate {}"), ("backbone_weights", "backbone {}")]
    done += [text.format(printable(str(settings[key]))) for key, text in told if key in settings]
    rows = [("training", ", ".join(done))] if done else []
    if metrics:
        rows.append(
            ("measured", ", ".join(f"{key} {metrics[key]:.3f}" for key in ("AP", "AP50", "AP75") if key in metrics))
        )
    return rows


def _list(labels: Sequence[str]) -> str:
    more = f", ... {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    from deformable_detr_refine.messages import printable

    return ", ".join(map(printable, labels[:MOST_LABELS])) + more
