"""`ddetr export`: a detector as ONNX, as a program of torch.export, in int8, or as an MLflow model."""

import argparse
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .arguments import add_force, add_json, positive_int
from .images import find_images
from .verify import sample_images

DESCRIPTION = """\
Writes a detector for where it will run.
  onnx    one file for ONNX Runtime; `ddetr detect OUT.onnx` and `ddetr serve OUT.onnx` take it
  torch   a program of torch.export, OUT.pt2
  int8    a model folder as before, but faster on a CPU with AVX-512 VNNI: calibrated on images, all in PyTorch
  mlflow  a folder that `mlflow models serve --env-manager local` answers from

Batch, height and width stay free. An ONNX file or a program proves itself before it appears: on images of two shapes,
alone and padded into one batch, its detections must be the model's (boxes within 0.001 of the image, scores within
0.001), and on a data set its AP must be within 0.1 points. A model in int8 may lose 0.5 points of AP on --data; how far
its numbers reach is seen on --images, or on the split `train` of --data. Otherwise nothing is written.
"""
EXAMPLES = """\
examples:
  ddetr export --to onnx detector detector.onnx
  ddetr export --to onnx detector detector.onnx --images wide.jpg high.jpg --data datasets/bccd --limit 50
  ddetr export --to onnx detector detector.onnx --custom-op
  ddetr export --to int8 detector detector-int8 --data datasets/bccd --limit 500
  ddetr export --to mlflow detector mlflow-model
"""
FORMS = ("onnx", "torch", "int8", "mlflow")
# On so many the embedded detector lost no AP (docs/guides/speed.md).
CALIBRATION_IMAGES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, or (not for mlflow) its Hub name")
    parser.add_argument("output", metavar="OUT", type=Path, help="OUT.onnx, OUT.pt2, or a folder for int8 and mlflow")
    parser.add_argument("--to", choices=FORMS, required=True, help="what to write")
    parser.add_argument(
        "--images",
        metavar="IMAGE",
        nargs="+",
        help="to prove it on: files, folders or patterns, of two shapes (default in a source checkout: its samples); "
        f"for int8: to calibrate on (default: the first {CALIBRATION_IMAGES} of --data's split train)",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="data set to compare the AP on (default in a source checkout: the samples of the model's classes, if any)",
    )
    parser.add_argument("--split", metavar="NAME", default="validation", help="of --data (default validation)")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=positive_int,
        default=50,
        help="compare the AP on the first N images of --data's split only (default 50)",
    )
    parser.add_argument(
        "--custom-op",
        action="store_true",
        help="of onnx: deformable attention as one node, for ONNX Runtime with this package or with the library that "
        "is written beside OUT; faster",
    )
    parser.add_argument(
        "--accept-loss", action="store_true", help="of int8: keep it even if it loses more than 0.5 points of AP"
    )
    add_force(parser)
    add_json(parser, "print the proof as JSON")


def run(args: argparse.Namespace) -> int:
    if args.custom_op and args.to != "onnx":
        raise ValueError("--custom-op is for --to onnx.")
    if args.accept_loss and args.to != "int8":
        raise ValueError("--accept-loss is for --to int8.")

    from deformable_detr_refine.modeling.without_torch import check_installed

    check_installed("ddetr export")
    if args.to == "mlflow":
        return _mlflow(args)
    if args.to == "int8":
        return _int8(args)
    images = find_images(args.images) if args.images else sample_images()

    from transformers.utils import logging

    from deformable_detr_refine.serving.export.onnx_export import export_onnx
    from deformable_detr_refine.serving.export.proof import Samples
    from deformable_detr_refine.serving.export.torch_export import export_torch

    logging.disable_progress_bar()
    with tqdm(unit="image", desc="tracing takes a minute or two; proof", disable=None) as progress:
        samples = Samples(images, _rows(args), progress.update)
        if args.to == "torch":
            proof = export_torch(args.model, args.output, samples, args.force)
        else:
            proof = export_onnx(args.model, args.output, samples, args.force, args.custom_op)
    return _tell(args, proof)


def _int8(args: argparse.Namespace) -> int:
    if not (args.images or args.data):
        raise ValueError("--to int8 needs --data, with a split train to calibrate on, or --images too.")

    from transformers.utils import logging

    from deformable_detr_refine.data.row_image import row_image
    from deformable_detr_refine.modeling import load_image
    from deformable_detr_refine.serving.export.int8_export import export_int8
    from deformable_detr_refine.serving.export.proof_data import data_rows

    given = find_images(args.images) if args.images else None

    def calibration(names: Sequence[str]) -> Sequence[Any]:
        if given:
            return [load_image(image) for image in given]
        return [row_image(row) for row in data_rows(names, args.data, "train", CALIBRATION_IMAGES)]

    logging.disable_progress_bar()
    with tqdm(unit="image", desc="calibration, then proof", disable=None) as progress:
        choices = args.force, args.accept_loss, progress.update
        proof = export_int8(args.model, args.output, calibration, _rows(args), *choices)
    return _tell(args, proof)


def _rows(args: argparse.Namespace) -> Callable[[Sequence[str]], Sequence[Any] | None]:
    """What gives, for a model's class names, the rows on which AP is compared."""
    from deformable_detr_refine.data.formats.load import check_source
    from deformable_detr_refine.serving.export.proof_data import data_rows, matching_samples

    if args.data:
        check_source(args.data)

    def rows(names: Sequence[str]) -> Sequence[Any] | None:
        if args.data:
            return data_rows(names, args.data, args.split, args.limit)
        samples = _samples()
        return matching_samples(names, samples / "annotations") if samples and find_spec("datasets") else None

    return rows


def _tell(args: argparse.Namespace, proof: Any) -> int:
    if args.json:
        print(json.dumps({"output": str(args.output), **proof.to_dict()}, indent=1))
    else:
        print(f"{args.model} -> {args.output}: {proof}")
    return 0


def _mlflow(args: argparse.Namespace) -> int:
    if given := [name for name in ("images", "data") if getattr(args, name)]:
        raise ValueError(f"--to mlflow copies the model as it is and proves nothing; drop --{given[0]}.")

    from deformable_detr_refine.inference.mlflow_model import export_mlflow

    export_mlflow(args.model, args.output, args.force)
    print(json.dumps({"output": str(args.output)}) if args.json else f"{args.model} -> {args.output}")
    return 0


def _samples() -> Path | None:
    """The samples of the checkout that this package runs from, if it does."""
    spec = find_spec("deformable_detr_refine")
    folder = Path(spec.origin).parents[1] / "samples" if spec and spec.origin else Path()
    return folder if (folder / "annotations").is_dir() else None
