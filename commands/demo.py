"""`ddetr demo`: a page that draws the boxes into one's pictures."""

import argparse
from importlib.util import find_spec

from .arguments import add_device, add_model, add_port_and_host, add_revision, positive_int
from .default_model import default_images, default_model, spare_torch
from .images import find_images

DESCRIPTION = """\
Opens a page on a port of this machine: drop a picture, move the threshold, see the boxes. Ctrl-C ends it.
The threshold begins with the model's own.
"""
EXAMPLES = """\
examples:
  ddetr demo
  ddetr demo detector/ --samples photos/ --port 8080 --host 0.0.0.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_port_and_host(parser, 7860, "where the page is")
    parser.add_argument("--cores", metavar="N", type=positive_int, help="cores to compute with (default: all)")
    parser.add_argument(
        "--samples",
        metavar="IMAGE",
        nargs="+",
        help="pictures that the page offers to try, or folders of them (default: for the package's own, three photos)",
    )
    add_device(parser)
    add_revision(parser)


def run(args: argparse.Namespace) -> int:
    # Before torch is imported, which takes seconds.
    if find_spec("gradio") is None:
        raise ValueError('The page needs gradio: pip install "deformable-detr-refine[demo]".')

    model = args.model or str(default_model())
    spare_torch(model)

    from deformable_detr_refine.inference.detector import Detector
    from deformable_detr_refine.serving.azure.server import check_port
    from deformable_detr_refine.serving.demo import build_page, launch

    check_port(args.host, args.port)
    samples = find_images(args.samples) if args.samples else default_images() if args.model is None else []
    detector = Detector(model, args.device, threads=args.cores, revision=args.revision)
    page = build_page(detector, model.rstrip("/").rpartition("/")[2] or "Detector", samples)
    launch(page, args.host, args.port)
    print(f"Open http://{args.host}:{args.port} in a browser; Ctrl-C ends it.", flush=True)
    page.block_thread()
    return 0
