"""`ddetr push`: a detector to the Hub, with a model card made from what lies beside it."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from .arguments import OWN_THRESHOLD, add_threshold
from .main import messages

DESCRIPTION = """\
Uploads a model folder to the Hub in one commit: weights, image processor, this package's model code (so that
trust_remote_code=True loads it where the package is not installed) and a model card. A push that breaks off leaves the
repository as it was. What is uploaded is listed before, with sizes. Log in first with `hf auth login`, or set HF_TOKEN.

The card is made from what lies in the folder: metrics.json (`ddetr evaluate` or `ddetr train` wrote it), settings.yaml
and trainer_state.json (`ddetr train`), the source of a converted checkpoint (README.md), and the weights' sha256.
"""
EXAMPLES = """\
examples:
  ddetr push runs/fridge me/fridge-detector --license mit --image photo.jpg
  ddetr push detector me/detector --metrics evaluated/metrics.json --private --revision trial
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model folder")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; made if there is none")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch; made if there is none")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="licence of the weights, mit, apache-2.0, ...: https://huggingface.co/docs/hub/repositories-licenses",
    )
    parser.add_argument("--image", metavar="IMAGE", help="photo to show in the card with what is found in it")
    add_threshold(parser, f"least score shown by the card ({OWN_THRESHOLD})")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded; needs no login")
    parser.add_argument("--metrics", metavar="FILE", type=Path, help="a metrics.json elsewhere than in MODEL")


def run(args: argparse.Namespace) -> int:
    if not args.model.is_dir():
        raise FileNotFoundError(f"There is no model folder {args.model}{messages()['near'](args.model)}")

    from transformers.utils import logging

    from deformable_detr_refine.serving.push import push

    def tell(sizes: Mapping[str, int]) -> None:
        print(f"To {args.repo_id}: {len(sizes)} files, {sum(sizes.values()):,} bytes", flush=True)
        width = max(map(len, sizes))
        for name, size in sizes.items():
            print(f"  {name:{width}} {size:>15,} bytes", flush=True)

    logging.disable_progress_bar()
    url = push(
        args.model,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        message=args.message,
        license=args.license,
        image=args.image,
        threshold=args.threshold,
        metrics=args.metrics,
        tell=tell,
        dry_run=args.dry_run,
    )
    print(f"{args.model} -> {url}" if url else "Nothing is uploaded: a dry run.")
    return 0
