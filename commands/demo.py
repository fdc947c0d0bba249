"""`ddetr demo`: a page that draws the boxes into one's pictures."""

import argparse
from importlib.util import find_spec
from typing import Any

from .arguments import port, positive_int
from .default_model import default_model

DESCRIPTION = """\
Opens a page on a port of this machine: drop a picture, move the threshold, see the boxes. Ctrl-C ends it.
"""
EXAMPLES = """\
examples:
  ddetr demo
  ddetr demo detector/ --port 8080 --host 0.0.0.0
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="open a page that draws the boxes into your pictures",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a model folder, an exported .onnx file or MLflow folder, or a Hub name (default: the package's own, of "
        "blood cells)",
    )
    parser.add_argument("--port", metavar="N", type=port, default=7860, help="where the page is (default 7860)")
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="0.0.0.0 for other machines too (default 127.0.0.1)"
    )
    parser.add_argument("--cores", metavar="N", type=positive_int, help="cores to compute with (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default auto)")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit, for a model of the Hub")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # Before torch is imported, which takes seconds.
    if find_spec("gradio") is None:
        raise ValueError('The page needs gradio: pip install "deformable-detr-refine[demo]".')

    from deformable_detr_refine.inference.detector import Detector
    from deformable_detr_refine.serving.azure.server import check_port
    from deformable_detr_refine.serving.demo import build_page, launch

    check_port(args.host, args.port)
    model = args.model or str(default_model())
    detector = Detector(model, args.device, threads=args.cores, revision=args.revision)
    page = build_page(detector, model.rstrip("/").rpartition("/")[2] or "Detector")
    launch(page, args.host, args.port)
    print(f"Open http://{args.host}:{args.port} in a browser; Ctrl-C ends it.", flush=True)
    page.block_thread()
    return 0
