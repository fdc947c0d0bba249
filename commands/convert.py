"""`ddetr convert`: a MMDetection checkpoint into a model folder, or a model folder into such a checkpoint."""

import argparse
import json
from pathlib import Path

from .arguments import add_force, add_json, positive_int

DESCRIPTION = """\
Turns a checkpoint of MMDetection 3.x or 2.x (plain, refine or refine-twostage; a .pth file, or the MLflow folder of
Azure's catalogue) into a folder that transformers loads. Nothing in the file is executed, MMDetection is not needed,
and every value of it is accounted for.
"""
EXAMPLES = """\
examples:
  ddetr convert epoch_50.pth detector
  ddetr convert weights.pth detector --config deformable-detr-refine-twostage.py --classes names.txt
  ddetr convert --to mmdet detector again.pth
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="CHECKPOINT", type=Path, help="what to convert; with --to, a model folder")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write; with --to, the file")
    parser.add_argument("--to", choices=["mmdet"], help="the other way: write a checkpoint of MMDetection 3.x")
    parser.add_argument("--config", metavar="FILE.py", type=Path, help="MMDetection's config, if the file holds none")
    parser.add_argument("--classes", metavar="FILE", type=Path, help="class names, one a line or a JSON list")
    parser.add_argument("--raw-weights", action="store_true", help="of averaged weights (EMA), take the raw ones")
    parser.add_argument("--num-queries", metavar="N", type=positive_int, help="if no config tells")
    parser.add_argument("--num-heads", metavar="N", type=positive_int, help="attention heads, if no config tells")
    parser.add_argument("--two-stage", action=argparse.BooleanOptionalAction, help="hold that it is, or is not")
    parser.add_argument(
        "--box-refine", action=argparse.BooleanOptionalAction, help="refine or plain, if no config tells"
    )
    add_force(parser)
    add_json(parser, "print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from transformers.utils import logging

    from deformable_detr_refine.conversion import convert_mmdet_checkpoint, export_mmdet_checkpoint

    logging.disable_progress_bar()
    if args.to == "mmdet":
        _check_no_import_options(args)
        weights = export_mmdet_checkpoint(args.source, args.output, force=args.force)
        report = {"output": str(args.output), "source": str(args.source), "tensors": len(weights)}
        print(json.dumps(report, indent=1) if args.json else f"{args.source} -> {args.output}, {len(weights)} tensors")
        return 0
    report = convert_mmdet_checkpoint(
        args.source,
        args.output,
        config=args.config,
        classes=args.classes,
        raw_weights=args.raw_weights,
        num_queries=args.num_queries,
        two_stage=args.two_stage,
        with_box_refine=args.box_refine,
        num_heads=args.num_heads,
        force=args.force,
    )
    print(json.dumps(report.to_dict(), indent=1) if args.json else report)
    return 0


def _check_no_import_options(args: argparse.Namespace) -> None:
    given = {
        "--config": args.config,
        "--classes": args.classes,
        "--raw-weights": args.raw_weights or None,
        "--num-queries": args.num_queries,
        "--num-heads": args.num_heads,
        "--two-stage": args.two_stage,
        "--box-refine": args.box_refine,
    }
    if meaningless := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"--to mmdet takes everything from the model folder; drop {', '.join(meaningless)}.")
