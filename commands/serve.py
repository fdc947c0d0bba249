"""`ddetr serve`: a detector behind Azure ML's schema, by Azure's own inference server."""

import argparse
import os
from importlib.util import find_spec

from .arguments import add_device, add_model, add_port_and_host, add_revision, positive_int
from .default_model import default_model, spare_torch

DESCRIPTION = """\
Answers POST /score as the endpoint of Azure's model catalogue does, and GET / as its health probe:
  {"input_data": {"columns": ["image"], "index": [0, 1], "data": [BASE64 OR URL, BASE64 OR URL]}}
  -> [{"boxes": [{"box": {"topX", "topY", "bottomX", "bottomY"}, "label", "score"}]}, ...]
Corners are 0..1 of the image, labels names, boxes as many as the model's image processor says (100) unless
"params": {"threshold", "top_k"} stand beside input_data. An image that fails has {"boxes": [], "error"} in its place.
URLs are fetched from public addresses only.
SIGTERM and Ctrl-C let requests at work finish.
"""
EXAMPLES = """\
examples:
  ddetr serve detector --port 5001
  ddetr serve detector --port 5001 --workers 2 --host 0.0.0.0
  echo '{"input_data": {"columns": ["image"], "index": [0], "data": ["'$(base64 -w0 photo.jpg)'"]}}' |
    curl http://127.0.0.1:5001/score --json @-
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_port_and_host(parser, 5001, "where it listens")
    # Azure's own variable. A default that is a string is held to the type like an argument.
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive_int,
        default=os.environ.get("WORKER_COUNT", "1"),
        help="processes (default 1, or WORKER_COUNT of the environment)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=positive_int,
        default=4,
        help="requests at work in each: one computes, others are decoded (default 4)",
    )
    parser.add_argument(
        "--cores", metavar="N", type=positive_int, help="cores of one forward pass (default: all, shared by workers)"
    )
    settings = parser.add_argument_group(
        "settings and limits on a request", "each also by a variable of the environment, as DDETR_BATCH_SIZE"
    )
    settings.add_argument(
        "--batch-size", metavar="N", type=positive_int, help="images of one shape at a time (default 4)"
    )
    add_device(settings, default=None)
    settings.add_argument("--dtype", help="float32, bfloat16 or float16 (default: as the model is saved)")
    add_revision(settings)
    settings.add_argument(
        "--request-bytes",
        metavar="N",
        type=positive_int,
        help="of a request's body, and of what its URLs bring (64 MiB)",
    )
    settings.add_argument(
        "--body-seconds", metavar="S", type=positive_int, help="for a request's body to arrive (default 60)"
    )
    settings.add_argument("--images", metavar="N", type=positive_int, help="most images in a request (default 32)")
    settings.add_argument(
        "--pixels", metavar="N", type=positive_int, help="of an image, before it is decoded (default 50 million)"
    )
    settings.add_argument(
        "--url-seconds", metavar="S", type=positive_int, help="for all URLs of a request (default 10)"
    )
    settings.add_argument("--url-bytes", metavar="N", type=positive_int, help="of one URL (default 20 MiB)")
    settings.add_argument(
        "--private-urls",
        action="store_const",
        const=1,
        help="fetch from addresses of this machine and its network too; only where every client is trusted",
    )


SETTINGS = (
    *("batch_size", "device", "dtype", "revision"),
    *("request_bytes", "body_seconds", "images", "pixels", "url_seconds", "url_bytes", "private_urls"),
)


def run(args: argparse.Namespace) -> int:
    # Before torch is imported, which takes seconds.
    if find_spec("azureml_inference_server_http") is None:
        raise ValueError(
            "Serving needs azureml-inference-server-http, in an environment apart from mlflow: in a checkout "
            "`make serve-env`, then `.venv-serve/bin/ddetr serve`; elsewhere "
            'pip install "deformable-detr-refine[serve]", which brings PyTorch; for an .onnx file without it, install '
            "serving/deploy/onnx-requirements.txt of a checkout."
        )

    model = args.model or str(default_model())
    spare_torch(model)

    from deformable_detr_refine.serving.azure.server import serve

    serve(
        model,
        host=args.host,
        port=args.port,
        workers=args.workers,
        threads=args.threads,
        cores=args.cores,
        settings={name: value for name in SETTINGS if (value := getattr(args, name)) is not None},
        begins=lambda address: print(f"POST {address}/score; Ctrl-C ends it. A page: ddetr demo", flush=True),
    )
    return 0
