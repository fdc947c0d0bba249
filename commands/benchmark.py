"""`ddetr benchmark`: how fast a detector is on this machine in every form that it can have, and what each costs."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from .arguments import add_device, add_json, add_model_and_size, add_revision, positive_int
from .default_model import default_model
from .info import PHOTO
from .main import error_sentence

DESCRIPTION = """\
Shows in one table what this machine does with a detector in each form that it can have here, and recommends one.
  float32, bfloat16, float16   PyTorch in these numbers
  compiled-float32, ...        the same by torch.compile(model, dynamic=True), which takes minutes to begin with
  onnx, onnx-operator          ONNX Runtime with the portable file, and with that of `ddetr export --custom-op`
  int8                         what `ddetr export --to int8` writes

ONNX files and int8 are written for it into a folder that goes (a minute or two each) unless --exported gives them. A
form that cannot be had here says why.

Each round runs every form once, so that a busy moment of the machine falls on all; a first round is not counted.
Reading, resizing and drawing images is not part of it. images/s is of the fastest run (what the machine can do) and of
the median run (what it did); the ratio is by the fastest, to the first row. AP is that of the first images of --data's
split. Memory, on a CPU, is what a process of its own grows by, at most, when it loads the form and makes one pass.

Where others keep the CPU busy it is told: PyTorch's threads wait for each other, so that fewer of them (--threads 1, or
OMP_NUM_THREADS=1 for any command) are faster then.
"""
EXAMPLES = """\
examples:
  ddetr benchmark detector --data datasets/bccd
  ddetr benchmark detector --forms float32 bfloat16 --size 800x1333 --batch-size 2 --runs 10
  ddetr benchmark detector --exported detector.onnx detector-int8 --threads 4
  ddetr benchmark detector --backends c torch --forms float32
"""
# By name, what makes it, or uses it.
FORMS = {
    "float32": "as it is",
    "bfloat16": "`model.to(torch.bfloat16)`, `ddetr serve --dtype bfloat16`",
    "float16": "`model.to(torch.float16)`, `ddetr serve --dtype float16`",
    "compiled-float32": "`torch.compile(model, dynamic=True)`",
    "compiled-bfloat16": "`torch.compile(model.to(torch.bfloat16), dynamic=True)`",
    "compiled-float16": "`torch.compile(model.to(torch.float16), dynamic=True)`",
    "onnx": "`ddetr export --to onnx`",
    "onnx-operator": "`ddetr export --to onnx --custom-op`",
    "int8": "`ddetr export --to int8`",
}
EXPORTS = ("onnx", "onnx-operator", "int8")
DEFAULT = ["float32", "bfloat16", *EXPORTS]
BACKENDS = ("c", "triton", "torch", "reference")
FAILURES = (ImportError, OSError, RuntimeError, ValueError)
# Of AP that a recommended form may lose: 0.5 points, as int8 may.
AP_TOLERANCE = 5e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_and_size(parser)
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=1, help="images at a time (default 1)")
    parser.add_argument("--runs", metavar="N", type=positive_int, default=5, help="timed runs of each row (default 5)")
    parser.add_argument(
        "--forms",
        nargs="+",
        metavar="FORM",
        choices=FORMS,
        help=f"which: {', '.join(FORMS)} (default: {' '.join(DEFAULT)}); a model in int8 has that one",
    )
    parser.add_argument(
        "--exported", metavar="OUT", nargs="+", type=Path, default=[], help="of MODEL: ONNX files and a folder in int8"
    )
    parser.add_argument(
        "--data", metavar="DATA", help="data set to find the AP on, and to calibrate int8 (split train)"
    )
    parser.add_argument("--split", metavar="NAME", help="of --data (default validation)")
    parser.add_argument(
        "--limit", metavar="N", type=positive_int, help="AP on the first N images of --data only (default 100)"
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        help="of the operator in PyTorch, a row each (default: the one that `ddetr doctor` names)",
    )
    parser.add_argument(
        "--threads", metavar="N", type=positive_int, help="of PyTorch and ONNX Runtime on a CPU (default: their choice)"
    )
    add_device(parser)
    add_revision(parser)
    add_json(parser, "print one JSON document, with the seconds of each run")


def run(args: argparse.Namespace) -> int:
    if not args.data and (args.split or args.limit):
        raise ValueError("--split and --limit are of --data, which is not given.")

    import torch
    from transformers.utils import logging

    from deformable_detr_refine.data.formats.load import check_source
    from deformable_detr_refine.evaluation.cost import model_cost
    from deformable_detr_refine.evaluation.timing import interleaved
    from deformable_detr_refine.inference.load_detector import load_detector
    from deformable_detr_refine.machine import idle_cores
    from deformable_detr_refine.serving.export import forms
    from deformable_detr_refine.serving.export.proof import average_precisions
    from deformable_detr_refine.serving.export.proof_data import data_rows

    logging.disable_progress_bar()
    if args.data:
        check_source(args.data)
    exported: dict[str, Path] = {}
    for path in args.exported:
        if (other := exported.setdefault(forms.form_of_export(path), path)) is not path:
            raise ValueError(f"{other} and {path} have one form: give --exported one of each.")
    idle = idle_cores()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.model = args.model or str(default_model())
    model, processor = load_detector(args.model, args.device, args.revision)
    height, width = args.size or processor.resized_shape(*PHOTO)
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    if not model.config.int8:
        model_cost(model, height, width)  # refuses too small an image before the exports, which take minutes
    elif args.forms or exported:
        raise ValueError(f"{args.model} is in int8, its one form: --forms and --exported are of a model in float32.")
    for path in exported.values():
        forms.check_export(path, args.model, names)
    data = data_rows(names, args.data, args.split or "validation", args.limit or 100) if args.data else []
    pixels = torch.randn(args.batch_size, 3, height, width, generator=torch.Generator().manual_seed(0))
    with TemporaryDirectory(prefix="ddetr-benchmark-") as folder:
        opened, memory, reasons = _opened(args, model, exported, pixels, names, Path(folder))
        once = {form: _tolerant(once) for form, (_, once) in opened.items()}
        with tqdm(total=len(once) * (args.runs + 1), unit="run", desc="timing", disable=None) as progress:
            times = interleaved(once, args.runs, progress.update)
        reasons |= {form.name: runs.reason for form, runs in times.items() if not runs}
        times = {form: runs for form, runs in times.items() if runs}
        if not times:
            raise _none(reasons)
        found: dict[Any, float] = {}
        for form in times if data else ():
            with tqdm(total=len(data), unit="image", desc=f"AP, {form.name}", disable=None) as progress:
                try:
                    (found[form],) = average_precisions(data, [opened[form][0]], progress.update)
                except FAILURES as error:
                    _tell(f"no AP of {form.name}: {error_sentence(error)}")

    first = min(next(iter(times.values())))
    rows = [
        {
            "form": form.name,
            "backend": form.backend,
            "numbers": form.numbers,
            "images_per_second": {
                "fastest": args.batch_size / min(runs),
                "median": args.batch_size / statistics.median(runs),
            },
            "ratio": first / min(runs),
            "seconds": list(runs),
            "ap": None if found.get(form) == -1 else found.get(form),  # no object to judge by
            "memory": memory.get(form),
        }
        for form, runs in times.items()
    ]
    report = {
        "model": args.model,
        "device": str(model.device),
        "processor": _processor(model.device),
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
        "idle_cores": idle,
        "torch": torch.__version__,
        "image": {"height": height, "width": width},
        "batch_size": args.batch_size,
        "ap_images": len(data) if args.data else None,
        "rows": rows,
        "not_run": reasons,
        "recommended": recommendation(rows),
    }
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0


def _opened(
    args: argparse.Namespace, model: Any, exported: dict[str, Path], pixels: Any, names: Sequence[str], folder: Path
) -> tuple[dict[Any, Any], dict[Any, int], dict[str, str]]:
    """By form its network and forward pass; its memory, in bytes; and by name, why the others cannot be had.

    Raises:
        ValueError: none can.
    """
    from PIL import Image

    from deformable_detr_refine.data.row_image import row_image
    from deformable_detr_refine.serving.export import forms
    from deformable_detr_refine.serving.export.proof_data import data_rows

    from .export import CALIBRATION_IMAGES

    def calibration() -> Sequence[Any]:
        if args.data:
            return [row_image(row) for row in data_rows(names, args.data, "train", CALIBRATION_IMAGES)]
        return [Image.effect_noise((pixels.shape[3], pixels.shape[2]), 64).convert("RGB")]  # for its time alone

    wanted = [*(args.forms or DEFAULT), *exported]
    if model.config.int8:
        wanted, exported = ["int8"], {"int8": Path(args.model)}
    backends = _backends(args.backends, model.device)
    with_memory = model.device.type == "cpu" and sys.platform == "linux"
    opened, memory, reasons = {}, {}, {}
    for name in [name for name in FORMS if name in wanted]:
        try:
            if reason := forms.why_not(name, model.device):
                raise ValueError(reason)
            path = str(exported.get(name, args.model))
            _tell(f"{'opening' if name in exported or name not in EXPORTS else 'exporting'} {name}")
            if name in EXPORTS and name not in exported:
                path = forms.write_export(name, args.model, args.revision, folder, calibration)
            for backend in [None] if name.startswith("onnx") else backends:
                form = forms.Form(name, path, backend)
                opened[form] = form.open(pixels, args.device, args.threads, args.revision)
                opened[form][1]()  # what fails, as where there is no compiler, fails here
                if with_memory:
                    memory[form] = 1024 * forms.added_memory(form, pixels.shape, args.threads, args.revision)
        except FAILURES as error:
            reasons[name] = error_sentence(error)
            opened = {form: entry for form, entry in opened.items() if form.name != name}
    if not opened:
        raise _none(reasons)
    return opened, memory, reasons


def _none(reasons: dict[str, str]) -> ValueError:
    name, reason = next(iter(reasons.items()))
    return ValueError(f"{name} cannot be had here: {reason}")


def _tolerant(once: Callable[[], object]) -> Callable[[], object]:
    """The forward pass, whose failure costs its own row only."""

    def run() -> None:
        try:
            once()
        except FAILURES as error:
            raise ChildProcessError(error_sentence(error)) from error

    return run


def _tell(text: str) -> None:
    print(f"ddetr benchmark: {text}", file=sys.stderr, flush=True)


def _backends(asked: Sequence[str] | None, device: Any) -> list[str]:
    """Those asked for, best first, or the one that is chosen for the device.

    Raises:
        ValueError: one that was asked for does not run there.
    """
    from deformable_detr_refine.modeling.ops import backend_report

    rows = {row["backend"]: row for row in backend_report(device)}
    for name in asked or ():
        if not rows[name]["available"]:
            raise ValueError(f"The backend {name} does not run on {device}: {rows[name]['reason']}.")
    return [name for name, row in rows.items() if (name in asked if asked else row["chosen"])]


def _processor(device: Any) -> str:
    from .doctor import accelerator_of, cpu_model

    accelerator = accelerator_of(device)
    return str(accelerator["name"] or device) if accelerator else cpu_model()


def _text(report: dict[str, Any]) -> str:
    from deformable_detr_refine.messages import counted

    image, threads, rows = report["image"], report["threads"], report["rows"]
    using = f", {counted(threads, 'thread')}" if threads else ""
    several = len({row["backend"] for row in rows} - {None}) > 1
    lines = [
        report["model"],
        f"{report['processor']}{using}, "
        f"torch {report['torch']}; batch of {report['batch_size']}, {image['height']}x{image['width']}",
        "",
        f"{'form':<20}{'images/s':>10}{'median':>10}{'ratio':>8}{'AP':>9}{'memory':>10}",
    ]
    for row in rows:
        speed, ap, memory = row["images_per_second"], row["ap"], row["memory"]
        name = f"{row['form']}, {row['backend']}" if several and row["backend"] else row["form"]
        lines.append(
            f"{name:<20}{speed['fastest']:>10.3g}{speed['median']:>10.3g}{row['ratio']:>8.2f}"
            f"{'-' if ap is None else f'{ap:.4f}':>9}{'-' if memory is None else f'{memory / 1e6:.0f} MB':>10}"
        )
    lines += [f"{name:<20}not run: {reason}" for name, reason in report["not_run"].items()]
    lines += ["", report["recommended"]]
    if threads and (busy := busy_machine(threads, report["idle_cores"])):
        lines += ["", busy]
    return "\n".join(lines)


def recommendation(rows: Sequence[dict[str, Any]]) -> str:
    """One sentence: the fastest form that loses at most 0.5 points of the first row's AP.

    Without AP it is the fastest in the same numbers, and what others would gain is said beside it.

    Example:
        >>> fp32, int8 = {"form": "float32", "numbers": "float32"}, {"form": "int8", "numbers": "int8"}
        >>> recommendation([{**fp32, "ratio": 1.0, "ap": 0.51}, {**int8, "ratio": 2.94, "ap": 0.507}])
        'For this machine: int8 (`ddetr export --to int8`), 2.9 times as fast as float32, AP 0.5070 in place of 0.5100.'
        >>> recommendation([{**fp32, "ratio": 1.0, "ap": 0.51}, {**int8, "ratio": 2.94, "ap": 0.50}])
        'For this machine: float32 (as it is), AP 0.5100.'
        >>> print(recommendation([{**fp32, "ratio": 1.0, "ap": None}, {**int8, "ratio": 2.94, "ap": None}]))
        For this machine: float32 (as it is); int8 is 2.9 times as fast, at a cost in AP that --data would show.
    """
    first = rows[0]
    known = first["ap"] is not None
    same = [
        row
        for row in rows
        if (
            (row["ap"] is not None and row["ap"] >= first["ap"] - AP_TOLERANCE)
            if known
            else row["numbers"] == first["numbers"]
        )
    ]
    best, fastest = (max(some, key=lambda row: row["ratio"]) for some in (same, rows))
    said = f"For this machine: {best['form']} ({FORMS[best['form']]})"
    if best is not first:
        said += f", {best['ratio'] / first['ratio']:.1f} times as fast as {first['form']}"
    if known:
        said += f", AP {best['ap']:.4f}" + (f" in place of {first['ap']:.4f}" if best is not first else "")
    elif fastest is not best:
        gain = fastest["ratio"] / best["ratio"]
        said += f"; {fastest['form']} is {gain:.1f} times as fast, at a cost in AP that --data would show"
    return said + "."


def busy_machine(threads: int, idle: float | None) -> str | None:
    """What to say where fewer cores were idle before the start than there are threads.

    Example:
        >>> busy_machine(2, 1.8), busy_machine(4, None)
        (None, None)
        >>> print(busy_machine(4, 1.25))
        The machine is busy: of the cores for 4 threads 1.2 were idle before the start, so these figures are too low.
        Threads wait for each other: --threads 1 is faster then (in other commands OMP_NUM_THREADS=1).
    """
    if idle is None or idle > threads - 0.5:
        return None
    told = (
        f"The machine is busy: of the cores for {threads} thread{'s' * (threads > 1)} {idle:.1f} were idle before the "
        "start, so these figures are too low."
    )
    fewer = max(int(idle), 1)
    if threads > 1:
        told += (
            f"\nThreads wait for each other: --threads {fewer} is faster then "
            f"(in other commands OMP_NUM_THREADS={fewer})."
        )
    return told
