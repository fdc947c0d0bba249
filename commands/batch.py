"""`ddetr batch`: objects in many images, with a row for each; goes on where it was stopped."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from .arguments import (
    add_batch_size,
    add_device,
    add_revision,
    add_threshold,
    add_tiles,
    add_top_k,
    positive_int,
    tiling_of,
)
from .default_model import spare_torch
from .output import make_writable

DESCRIPTION = """\
Finds objects in all images of INPUT and writes a row for each, in the order of the input:
  a folder with images, also in folders below it;
  a table, several by a pattern, or a folder with an MLTable: CSV (a first row that holds an image is no header),
  Parquet, or JSON lines. The images' column holds base64 or bytes, paths (from the table's folder on) or http(s) URLs
  of public addresses.
FILE tells the format:
  .jsonl    {"index", "image", "width", "height", "boxes": [[x0, y0, x1, y1]], "scores", "labels"}, boxes in pixels of
            the upright original image, best first
  .parquet  the same as columns
  .csv      predictions.csv of Azure's batch endpoints: no header; row in its file, response as JSON, file name
An image that fails has a row with its error. What is finished is kept in FILE.parts: after a stop of any kind the same
command goes on, and nothing is lost or written twice.
"""
EXAMPLES = """\
examples:
  ddetr batch detector photos/ --output found/cells.jsonl
  ddetr batch detector 'shards/*.parquet' --output found/photos.parquet --threshold 0.3
  ddetr batch detector images.csv --output found/predictions.csv --error-threshold 0
  RAY_ADDRESS=auto ddetr batch detector /mnt/photos --output found/photos.parquet --engine ray
"""
FORMATS = ("jsonl", "parquet", "predictions")
ENGINES = ("here", "ray")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a model folder, its Hub name, or an exported .onnx file or MLflow folder"
    )
    parser.add_argument("input", metavar="INPUT", help="a folder, a table, a glob pattern or an MLTable")
    parser.add_argument("--output", metavar="FILE", required=True, type=Path, help="the file to write")
    parser.add_argument("--format", choices=FORMATS, help="instead of the one that FILE's suffix tells")
    parser.add_argument("--column", metavar="NAME", help="the tables' column with the images (default: by its name)")
    add_threshold(parser, "least score, 0..1 (default 0, as Azure's)", default=0.0)
    add_top_k(parser)
    parser.add_argument(
        "--error-threshold",
        metavar="N",
        type=_from_minus_one,
        default=-1,
        help="stop when more than N images have failed; -1, the default, lets all of them fail, as Azure's",
    )
    add_batch_size(parser, 1)
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive_int,
        help="processes with a core each, or threads around an accelerator (default: all cores; 4 threads)",
    )
    parser.add_argument("--engine", choices=ENGINES, default="here", help="here: this machine (default); ray: Ray Data")
    add_device(parser)
    add_revision(parser)
    add_tiles(parser)
    parser.add_argument("--force", action="store_true", help="begin anew, and replace FILE")


def run(args: argparse.Namespace) -> int:
    if args.output.is_dir():
        raise ValueError(f"{args.output} is a folder; give the name of the file to write.")
    spare_torch(args.model)
    tiling = tiling_of(args)
    make_writable(args.output.absolute().parent)

    from deformable_detr_refine.inference.detector import on_cpu
    from deformable_detr_refine.machine import usable_cores
    from deformable_detr_refine.messages import counted
    from deformable_detr_refine.serving.batch.run import run_batch
    from deformable_detr_refine.serving.batch.workers import run_here

    engine = run_here
    cores = usable_cores()
    if args.engine == "here" and (args.workers or 1) > cores and on_cpu(args.model, args.device):
        print(
            f"ddetr batch: {args.workers} workers share {counted(cores, 'core')} and wait for each other; "
            "without --workers each core has one.",
            file=sys.stderr,
        )
    if args.engine == "ray":
        from deformable_detr_refine.serving.batch.ray_engine import import_ray, run_on_ray

        import_ray()
        engine = run_on_ray
    # Without a rate, which would count the start-up.
    with tqdm(disable=None, bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} images [{elapsed}<{remaining}]") as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:
                # What an earlier run finished says nothing of the time that remains.
                bar.total, bar.initial, bar.n, bar.last_print_n = total, done, done, done
                bar.refresh()
            bar.update(done - bar.n)

        summary = run_batch(
            args.model,
            args.input,
            args.output,
            form=args.format,
            column=args.column,
            threshold=args.threshold,
            top_k=args.top_k,
            batch_size=args.batch_size,
            workers=args.workers,
            device=args.device,
            tiling=tiling,
            revision=args.revision,
            error_threshold=args.error_threshold,
            force=args.force,
            engine=engine,
            progress=progress,
        )
    new = summary.images - summary.resumed
    earlier = f", {summary.resumed} of them in an earlier run" if summary.resumed else ""
    rate = f"; {new / summary.seconds:.3g} images/s, start-up not counted" if summary.seconds else ""
    print(f"{summary.images} images{earlier}, {summary.failed} failed{rate}")
    if summary.again:
        print(f"Computed again: {summary.again}; their images have changed since, or their part was damaged.")
    if summary.left_out:
        print(f"Left out: {summary.left_out}.")
    if summary.error:
        print(f"The first failure: {summary.error}")
    print(f"Written: {args.output}")
    return 0


def _from_minus_one(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -2
    if value < -1:
        raise argparse.ArgumentTypeError(f"{text} is neither -1 nor a number of images")
    return value
