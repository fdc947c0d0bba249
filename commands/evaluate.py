"""`ddetr evaluate`: how good a detector is on a data set, as numbers, tables and a report."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .arguments import (
    add_batch_size,
    add_device,
    add_json,
    add_revision,
    add_threshold,
    add_tiles,
    positive_int,
    tiling_of,
)
from .output import check_results_folder, results_folder

DESCRIPTION = """\
Runs a detector over a split of a data set and compares what it finds with what is true: COCO's metrics (COCOeval's
numbers: no score threshold, 100 detections an image), Azure ML's, and a report to look at.

DATA is a folder or a file (COCO json, Pascal VOC, YOLO, Azure's MLTable with JSONL, a saved `datasets` folder; the
format is found by looking), or OWNER/NAME on the Hub. Classes meet by name.

files in DIR:
  report.html      one page: AP by IoU, size and class, curves, confusion, kinds of errors, best and worst images
  metrics.json     AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl, 0..1 (-1: nothing to judge),
                   per_class, azure (mean_average_precision, precision, recall, ...), about (what was evaluated how)
  per_class.csv    a row for each class
  detections.json  COCO's result form, with the ids of a COCO data set; of others with those of
                   `ddetr data convert --to coco`: classes count from 1
"""
EXAMPLES = """\
examples:
  ddetr evaluate detector datasets/bccd --output runs/evaluated
  ddetr evaluate detector coco/ --split val --output runs/evaluated --batch-size 8 --device cuda --dtype bfloat16
  ddetr evaluate detector datasets/bccd --output runs/evaluated --limit 20 --json | python -m json.tool
"""
NEEDED = ("datasets", "pycocotools", "matplotlib", "jinja2")
FILES = ("report.html", "metrics.json", "per_class.csv", "detections.json")
DTYPES = ("float32", "bfloat16", "float16")
TABLE_ROWS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder (what `ddetr train` writes), or its Hub name")
    parser.add_argument("data", metavar="DATA", help="a folder, a file or OWNER/NAME on the Hub")
    parser.add_argument("--split", metavar="NAME", default="validation", help="train, validation (default), test")
    parser.add_argument("--output", metavar="DIR", required=True, type=Path, help="where the files go")
    add_batch_size(parser, 4)
    add_device(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="numbers to compute in (default float32)")
    add_threshold(
        parser,
        "score above which a detection counts in precision, recall and the page's errors (default: that with the best "
        "F1) and in Azure's metrics (default 0.3); COCO's metrics have none",
    )
    parser.add_argument(
        "--azure-config", metavar="FILE", type=Path, help="Azure's evaluation config: metrics and thresholds, as JSON"
    )
    parser.add_argument("--limit", metavar="N", type=positive_int, help="only the first N images")
    parser.add_argument(
        "--defects",
        choices=("error", "skip"),
        default="error",
        help="what to do with boxes and images that cannot be used: stop (default), or leave them out and say so",
    )
    add_revision(parser)
    add_tiles(parser)
    add_json(parser, "print the content of metrics.json instead of tables")


def run(args: argparse.Namespace) -> int:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f'This needs {", ".join(missing)}: pip install "deformable-detr-refine[train]".')

    from deformable_detr_refine.data.defects import box_form_notes, command_line_words
    from deformable_detr_refine.data.formats.load import check_source, load_detection_data
    from deformable_detr_refine.data.label_map import LabelMap
    from deformable_detr_refine.data.row_image import row_image
    from deformable_detr_refine.evaluation.class_names import RelabelledData
    from deformable_detr_refine.evaluation.metrics.azure import METRICS, AzureEvaluation, azure_metrics
    from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
    from deformable_detr_refine.evaluation.predict import predict
    from deformable_detr_refine.evaluation.report.report import origin, page_facts, useful_threshold, write_report
    from deformable_detr_refine.evaluation.report.result_files import write_detections, write_metrics, write_per_class
    from deformable_detr_refine.inference.load_detector import load_detector
    from deformable_detr_refine.messages import printable
    from deformable_detr_refine.modeling.image_io import as_text
    from deformable_detr_refine.secret_text import without_secrets

    azure = AzureEvaluation.from_file(args.azure_config) if args.azure_config else AzureEvaluation()
    if args.threshold is not None:
        azure = AzureEvaluation(azure.metrics, azure.iou_threshold, args.threshold)
    check_results_folder(args.output, FILES)
    tiling = tiling_of(args)
    check_source(args.data)
    model, processor = load_detector(args.model, args.device, args.revision)
    model = model.to(_torch_type(args.dtype, model.device))

    with command_line_words():
        data = load_detection_data(args.data, split=args.split, defects=args.defects)
    for text in box_form_notes(data.defects):
        print(f"ddetr evaluate: {text}.", file=sys.stderr)
    ((split, dataset),) = data.splits.items()
    tried = None
    if args.limit and args.limit < len(dataset):
        dataset = dataset.select(range(args.limit))
        tried = {printable(name) for name in dataset["file_name"]}
    if tiling is not None:
        tiling.check(zip(dataset["height"], dataset["width"], strict=True))
    names = LabelMap.from_config(model.config).names
    rows = RelabelledData(dataset, data.label_map.names, names, skip_unknown=args.defects == "skip")

    unusable: list[str] = []
    started = time.monotonic()
    with tqdm(total=len(rows), unit="image", disable=None) as progress:
        skip = _tell_and_keep(unusable) if args.defects == "skip" else _refuse
        images = list(predict(model, processor, rows, args.batch_size, progress.update, unusable=skip, tiling=tiling))
    seconds = time.monotonic() - started
    if not images:
        raise ValueError(f"None of {len(rows)} images of {args.data} can be read; the first: {unusable[0]}")
    images.sort(key=lambda image: image.image_id)

    coco = coco_metrics(images, names)
    by_azure = azure_metrics(images, names, AzureEvaluation(METRICS, azure.iou_threshold, azure.box_score_threshold))
    # One threshold for precision and recall in the table, the CSV and the page.
    fixed = args.threshold is not None or args.azure_config is not None
    threshold = azure.box_score_threshold if fixed else useful_threshold(images)
    by_label = azure_metrics(images, names, AzureEvaluation(["per_label_metrics"], azure.iou_threshold, threshold))
    by_label = by_label["per_label_metrics"]
    about = {
        **origin(args.model),
        "data": without_secrets(args.data),
        "split": split,
        "images": len(images),
        "objects": sum(row["objects"] for row in coco["per_class"].values()),
        "left_out": {
            "images": len(unusable) + _lost(data.defects, "image", tried),
            "objects": sum(rows.left_out.values()) + _lost(data.defects, "object", tried),
        },
        "threshold": threshold,
        "own_threshold": model.config.score_threshold,
        "azure_threshold": azure.box_score_threshold,
        "device": str(model.device),
        "dtype": args.dtype,
        **({"tiling": str(tiling)} if tiling else {}),
        "images_per_second": round(len(images) / seconds, 2),
    }
    metrics = {**coco, "azure": {name: by_azure[name] for name in azure.metrics}, "about": about}

    ids = dict(zip(data.label_map.names, data.coco_ids, strict=True))
    category_ids = [ids.get(name) for name in names]
    numbers = {image_id: number for number, image_id in enumerate(dataset["image_id"])}
    with results_folder(args.output, FILES) as folder:
        write_detections(folder / "detections.json", images, category_ids)
        write_per_class(folder / "per_class.csv", coco["per_class"], by_label, category_ids)
        write_metrics(folder / "metrics.json", metrics)
        write_report(
            images,
            coco,
            names,
            folder,
            image_of=lambda image: row_image(dataset[numbers[image.image_id]]),
            title=as_text(f"{Path(args.model).name} on {Path(args.data).name}, {split}"),
            history=_training_history(args.model),
            threshold=threshold,
            facts=page_facts(about),
            left_out=[*unusable, *(str(defect) for defect in data.defects if defect.loses == "image")],
        )
    if args.json:
        sys.stdout.write((args.output / "metrics.json").read_text(encoding="utf-8"))
    else:
        print(_tables(coco, by_label, about))
        print("Written: " + ", ".join(str(args.output / name) for name in FILES))
    return 0


def _lost(defects: Sequence[Any], what: str, tried: set[str] | None) -> int:
    """How many objects or images the data's defects cost; with a limit, of those images only that were tried."""
    return sum(defect.loses == what and (tried is None or defect.image in tried) for defect in defects)


def _torch_type(name: str, device: Any) -> Any:
    import torch

    from deformable_detr_refine.machine import warn_of_slow_numbers

    if name == "float16" and device.type == "cpu":
        raise ValueError("float16 is for accelerators; on a CPU take --dtype float32 or bfloat16.")
    dtype = getattr(torch, name)
    warn_of_slow_numbers(dtype, device)
    return dtype


def _refuse(message: str) -> None:
    raise ValueError(f"{message.rstrip('.')}; --defects skip leaves such images out.")


def _tell_and_keep(messages: list[str]) -> Callable[[str], None]:
    def tell(message: str) -> None:
        messages.append(message)
        tqdm.write(f"ddetr evaluate: left out: {' '.join(message.split())}", file=sys.stderr)

    return tell


def _training_history(model: str) -> list[dict[str, Any]]:
    """What the Trainer logged while it made this model; nothing where it left no such file, or a damaged one."""
    file = Path(model) / "trainer_state.json"
    try:
        logged = json.loads(file.read_text(encoding="utf-8"))["log_history"] if file.is_file() else ()
        return [line for line in logged if isinstance(line, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _tables(coco: Mapping[str, Any], by_label: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What was evaluated, COCO's twelve numbers, and the classes."""
    from deformable_detr_refine.messages import counted

    left_out = about["left_out"]
    head = (
        f"{counted(about['images'], 'image')}, {counted(about['objects'], 'object')}; "
        f"{about['images_per_second']:g} images/s on {about['device']}, {about['dtype']}"
    )
    if any(left_out.values()):
        head += f"\nleft out: {counted(left_out['images'], 'image')}, {counted(left_out['objects'], 'object')}"
    summary = _columns(
        [
            ("average precision", "AP", "AP50", "AP75", "small", "medium", "large"),
            ("", *(_number(coco[key]) for key in ("AP", "AP50", "AP75", "APs", "APm", "APl"))),
            ("average recall", "AR1", "AR10", "AR100", "small", "medium", "large"),
            ("", *(_number(coco[key]) for key in ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"))),
        ]
    )
    threshold = f"{about['threshold']:g}"
    rows: list[Sequence[str]] = [
        ("class", "objects", "AP", "AP50", "AP75", "AR100", f"precision>{threshold}", f"recall>{threshold}")
    ]
    classes = list(coco["per_class"].items())
    if len(classes) > TABLE_ROWS:
        # The worst, since those are looked for; classes without objects last.
        classes.sort(key=lambda item: item[1]["AP"] if item[1]["objects"] else 2)
    for name, row in classes[:TABLE_ROWS]:
        numbers = (
            row["AP"],
            row["AP50"],
            row["AP75"],
            row["AR100"],
            by_label[name]["precision"],
            by_label[name]["recall"],
        )
        rows.append((_short(name), str(row["objects"]), *map(_number, numbers)))
    more = len(classes) - TABLE_ROWS
    rest = f"\n... and {more} more classes, with higher AP or without objects: per_class.csv" if more > 0 else ""
    own = about["own_threshold"]
    note = f"\n`ddetr detect` begins with the threshold in the detector's config, {own:g}" if own is not None else ""
    return f"{head}\n\n{summary}\n\n{_columns(rows)}{rest}{note if own != about['threshold'] else ''}"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    return "-" if value == -1 else f"{value:.3f}"


def _short(name: str, length: int = 32) -> str:
    from deformable_detr_refine.messages import printable

    return printable(name, length)
