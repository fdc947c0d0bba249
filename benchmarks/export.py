"""ONNX Runtime beside PyTorch on the same detector: what a deployment without PyTorch costs or saves on a CPU.

    python benchmarks/export.py detector/ detector.onnx [--size 480x640] [--threads 1] [--rounds 7]

detector.onnx comes from `ddetr export --to onnx detector/ detector.onnx`. Runs are interleaved. PyTorch runs twice:
with the backend it chooses (the C library, where it was built) and with the one that needs no compiler.
"""

import argparse
from importlib.metadata import version
from pathlib import Path

import torch
from serving_page import Section, add_keep
from timing import interleaved, shape_of, table

from deformable_detr_refine import use_backend
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.onnx_detector import load_onnx

ONNX, OURS, PLAIN = "ONNX Runtime", "PyTorch", "PyTorch, torch backend"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder")
    parser.add_argument("onnx", type=Path, help="the same, exported")
    parser.add_argument("--size", default="480x640", help="height x width of the pixels (default 480x640)")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each (default 7)")
    add_keep(parser)
    args = parser.parse_args()
    name = Path(args.model).name
    section = Section(f"ONNX Runtime beside PyTorch: {name}, {args.size}, {args.threads} thread(s)")
    height, width = shape_of(args.size)
    torch.set_num_threads(args.threads)
    detector, _ = load_detector(args.model, "cpu")
    exported = load_onnx(args.onnx, args.threads)
    inputs = {
        "pixel_values": torch.randn(1, 3, height, width),
        "pixel_mask": torch.ones(1, height, width, dtype=torch.int64),
    }

    def pytorch(backend: str | None = None) -> None:
        with torch.inference_mode(), use_backend(backend):
            detector(**inputs)

    times = interleaved(
        {PLAIN: lambda: pytorch("torch"), OURS: pytorch, ONNX: lambda: exported.forward(inputs)}, args.rounds
    )
    section.say(f"ONNX Runtime {version('onnxruntime')}.\n")
    section.say(table(times, {OURS: (PLAIN, ONNX), ONNX: (PLAIN,)}))
    if args.keep:
        section.keep()


if __name__ == "__main__":
    main()
