"""A detector in every form that a CPU runs it in, beside transformers' own Deformable DETR of the same sizes, in turns.

    python benchmarks/runtimes.py --size 480x640 --threads 1               # R-50, weights drawn at random
    python benchmarks/runtimes.py samples/blood-cells --size 288x384

The ONNX files and int8 are written into a folder that goes. PyTorch runs float32 twice: with the operator it chooses
(the C library, where it was built) and with the one that needs no compiler. What the forms cost in AP says
`ddetr benchmark --data`.
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from contenders import OURS, STOCK, Local, inputs, our_detector, stock_detector
from PIL import Image
from serving_page import Section, add_keep
from timing import interleaved, shape_of, table

from deformable_detr_refine import DeformableDetrRefineConfig, DeformableDetrRefineImageProcessor
from deformable_detr_refine.serving.export.forms import Form, write_export

PLAIN = f"{OURS}, torch backend"
FORMS = ("bfloat16", "compiled-bfloat16", "onnx", "onnx-operator", "int8")
# Of SAMPLES the ranges of int8 are taken, which its speed does not depend on.
SAMPLES = Path(__file__).parents[1] / "samples" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder (default: R-50, 80 classes, weights drawn at random)")
    parser.add_argument("--size", default="480x640", help="height x width of the pixels (default 480x640)")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each (default 7)")
    parser.add_argument(
        "--forms",
        nargs="*",
        choices=FORMS,
        default=[form for form in FORMS if not form.startswith("compiled")],
        help="beside float32 (default: all but the compiled one, which takes minutes to begin with)",
    )
    add_keep(parser)
    args = parser.parse_args()
    name = Path(args.model).name if args.model else "R-50"
    section = Section(f"Runtimes: {name}, {args.size}, {args.threads} thread(s)")
    torch.set_num_threads(args.threads)
    batch = inputs(*shape_of(args.size))
    with TemporaryDirectory(prefix="ddetr-bench-") as folder:
        model = args.model or _random_detector(Path(folder) / "detector")
        stock = Local(stock_detector(DeformableDetrRefineConfig.from_pretrained(model)))
        stock.take(batch)
        forms = {PLAIN: Form("float32", model, "torch"), OURS: Form("float32", model)}
        for form in args.forms:
            exported = "onnx" in form or form == "int8"
            forms[form] = Form(form, write_export(form, model, None, Path(folder), _photos) if exported else model)
        passes = {each: form.open(batch["pixel_values"], "cpu", args.threads, None)[1] for each, form in forms.items()}
        times = interleaved({STOCK: stock.inference, **passes}, args.rounds)
    section.say(f"ONNX Runtime {version('onnxruntime')}.\n")
    section.say(table(times, {each: (STOCK,) if each == OURS else (OURS, STOCK) for each in passes}))
    if args.keep:
        section.keep()


def _random_detector(folder: Path) -> str:
    our_detector().save_pretrained(folder)
    DeformableDetrRefineImageProcessor().save_pretrained(folder)
    return str(folder)


def _photos() -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in sorted(SAMPLES.glob("*.jpg"))]


if __name__ == "__main__":
    main()
