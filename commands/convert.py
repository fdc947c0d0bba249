"""`ddetr convert`: a checkpoint of another code base into a model folder, or a model folder into such a checkpoint."""

import argparse
import json
from pathlib import Path

from .arguments import add_force, add_json, add_revision, positive_int

CODE_BASES = ("mmdet", "original", "transformers", "detrex")
WRITTEN = ("mmdet", "original", "transformers")
DESCRIPTION = """\
Turns a checkpoint of Deformable DETR (plain, refine or refine-twostage) into a folder that transformers loads: one of
MMDetection 3.x or 2.x, of the authors' repository (fundamentalvision/Deformable-DETR), of transformers' own Deformable
DETR, or of detrex. Which one it is, is found by looking. Nothing in it is executed, the code that wrote it is not
needed, and every value is accounted for.

SOURCE is a file; a folder (transformers', detrex's output, the MLflow folder of Azure's catalogue); or, to be fetched,
a name of --list, a URL, or OWNER/NAME on the Hub. Only these three ask the network. What was fetched is kept in
$DDETR_CACHE, else deformable-detr-refine in your cache folder; of the Hub, in the Hub's own cache.
"""
EXAMPLES = """\
examples:
  ddetr convert r50-refine-twostage detector
  ddetr convert epoch_50.pth detector
  ddetr convert weights.pth detector --config deformable-detr-refine-twostage.py --classes names.txt
  ddetr convert output/model_final.pth detector            # detrex; config.yaml is read where it lies beside
  ddetr convert SenseTime/deformable-detr detector --coco80
  ddetr convert --to mmdet detector again.pth
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="what to convert; with --to, a model folder")
    parser.add_argument(
        "output",
        metavar="OUT",
        nargs="?",
        type=Path,
        help="folder to write; with --to, the file or folder",
    )
    parser.add_argument("--list", action="store_true", help="print the published checkpoints that have a name here")
    parser.add_argument("--from", dest="code_base", choices=CODE_BASES, help="do not look which code base wrote it")
    parser.add_argument("--to", choices=WRITTEN, help="the other way: write a checkpoint of this code base")
    add_revision(parser)
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="its config, if none lies with it: MMDetection's .py, detrex's config.yaml, the authors' args as .json",
    )
    parser.add_argument("--classes", metavar="FILE", type=Path, help="class names, one a line or a JSON list")
    parser.add_argument("--coco80", action="store_true", help="of 91 outputs, one per id of COCO, keep the 80 classes")
    parser.add_argument("--raw-weights", action="store_true", help="of averaged weights (EMA), take the raw ones")
    parser.add_argument("--num-queries", metavar="N", type=positive_int, help="if no config tells")
    parser.add_argument("--num-heads", metavar="N", type=positive_int, help="attention heads, if no config tells")
    parser.add_argument("--two-stage", action=argparse.BooleanOptionalAction, help="say that it is, or is not")
    parser.add_argument(
        "--box-refine", action=argparse.BooleanOptionalAction, help="refine or plain, if no config tells"
    )
    add_force(parser)
    add_json(parser, "print the report as JSON")


def run(args: argparse.Namespace) -> int:
    if args.list:
        return _list(args.json)
    if args.output is None:
        raise ValueError("Give SOURCE and OUT; `ddetr convert --list` names published checkpoints.")
    if args.to is not None:
        _check_no_import_options(args)

    from deformable_detr_refine.conversion import convert_checkpoint, export_checkpoint

    if args.to is not None:
        written = export_checkpoint(args.source, args.output, args.to, force=args.force)
        count = len(written.weights)
        report = {"output": str(args.output), "source": args.source, "tensors": count, "notes": written.notes}
        lines = [f"{args.source} -> {args.output}, {count} tensors", *(f"  note: {note}" for note in written.notes)]
        print(json.dumps(report, indent=1) if args.json else "\n".join(lines))
        return 0
    report = convert_checkpoint(
        args.source,
        args.output,
        args.code_base,
        config=args.config,
        classes=args.classes,
        coco80=args.coco80,
        raw_weights=args.raw_weights,
        num_queries=args.num_queries,
        two_stage=args.two_stage,
        with_box_refine=args.box_refine,
        num_heads=args.num_heads,
        revision=args.revision,
        force=args.force,
    )
    print(json.dumps(report.to_dict(), indent=1) if args.json else report)
    return 0


def _list(as_json: bool) -> int:
    from dataclasses import asdict

    from deformable_detr_refine.conversion.download.published import PUBLISHED

    if as_json:
        print(json.dumps([asdict(published) for published in PUBLISHED.values()], indent=1))
        return 0
    width = max(map(len, PUBLISHED))
    print(f"{'name':{width}}  COCO box AP, as reported  licence     address")
    for name, published in PUBLISHED.items():
        print(f"{name:{width}}  {published.ap:<24}  {published.licence}  {published.address}")
    return 0


def _check_no_import_options(args: argparse.Namespace) -> None:
    given = {
        "--from": args.code_base,
        "--revision": args.revision,
        "--config": args.config,
        "--classes": args.classes,
        "--coco80": args.coco80 or None,
        "--raw-weights": args.raw_weights or None,
        "--num-queries": args.num_queries,
        "--num-heads": args.num_heads,
        "--two-stage": args.two_stage,
        "--box-refine": args.box_refine,
    }
    if meaningless := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"--to {args.to} takes everything from the model folder; drop {', '.join(meaningless)}.")
