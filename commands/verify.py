"""`ddetr verify`: a checkpoint's numbers here beside those of the code it comes from."""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from .arguments import add_json
from .images import find_images

DESCRIPTION = """\
Converts a checkpoint of MMDetection, runs it on images here and in the real MMDetection 3.1.0, and prints the largest
differences. On the very same pixels, logits and boxes of every decoder layer must agree within 1e-4.

A folder of stock transformers (model_type deformable_detr) runs in the transformers that is installed instead: compared
are the pixels that its image processor makes, the last decoder layer and the detections. Nothing is fetched for that.

MMDetection is installed once, with pip, into a folder of its own ($DDETR_CACHE, else deformable-detr-refine in your
cache folder; about 300 MB); the environment that ddetr runs in is not changed. Both sides compute on the CPU, so allow
some seconds an image. Nothing in the checkpoint or its config is executed on either side.

columns: pixels after normalising and padding; starts: queries that begin at the same box; logits and boxes of all
decoder layers; scores and corners of the final detections, and how many of them have an equal partner

The authors' code and detrex cannot be installed from a package index, so their checkpoints are not compared here; the
package's own tests compare with what that code computed of weights drawn at random.

exit status: 0 all agree, 1 a difference is over the tolerance, 2 it could not be found out
"""
SAMPLES = ("10.jpg", "BloodImage_00000.jpg")
EXAMPLES = """\
examples:
  ddetr verify checkpoint.pth
  ddetr verify checkpoint.pth --images photo.jpg another.jpg
  ddetr verify stock-folder/ --images photo.jpg
  ddetr verify original-refine-twostage --images photo.jpg         # from the Hub, beside transformers
  ddetr verify checkpoint.pth --images photos/ --config config.py --round-trip --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a .pth file of MMDetection, or a folder of transformers; or what `ddetr convert` fetches: a name of its "
        "--list, a URL, OWNER/NAME on the Hub",
    )
    parser.add_argument(
        "--images",
        metavar="IMAGE",
        nargs="+",
        help="files, folders or glob patterns; two shapes are best (default in a source checkout: two of its samples)",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="its config, if the checkpoint does not carry it")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the converted model, and what MMDetection wrote")
    parser.add_argument(
        "--round-trip",
        action="store_true",
        help="also write the model back in MMDetection's form and let MMDetection load and run that",
    )
    add_json(parser, "print one JSON document instead of tables")


def run(args: argparse.Namespace) -> int:
    images = find_images(args.images) if args.images else sample_images()
    for image in images:
        if not Path(image).is_file():
            raise FileNotFoundError(f"{image} is not a file; verify reads images from files only.")

    from deformable_detr_refine.conversion.proof.verify import verify_checkpoint

    report = verify_checkpoint(
        args.checkpoint,
        images,
        config=args.config,
        keep=args.keep,
        round_trip=args.round_trip,
        say=lambda text: print(f"ddetr verify: {text}", file=sys.stderr, flush=True),
    )
    print(json.dumps(report.to_dict(), indent=2) if args.json else report)
    return 0 if report.passed else 1


def sample_images() -> list[str]:
    """Two images of different shape out of the checkout that this package runs from.

    Raises:
        ValueError: it does not run from one.
    """
    spec = find_spec("deformable_detr_refine")
    folder = Path(spec.origin).parents[1] / "samples" / "images" if spec and spec.origin else Path()
    images = [folder / name for name in SAMPLES]
    if not all(image.is_file() for image in images):
        raise ValueError("Give images with --images; two of different shape are best.")
    return [str(image) for image in images]
