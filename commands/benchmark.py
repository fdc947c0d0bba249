"""`ddetr benchmark`: how many images a second a detector does on this machine, by backend and type of numbers."""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from .arguments import add_device, add_json, add_model_and_size, add_revision, positive_int
from .default_model import default_model
from .info import PHOTO

DESCRIPTION = """\
Times a detector's forward pass on this machine: every backend of its attention operator that runs here, in float32 and
in bfloat16. Each round runs every row once, so that a busy moment of the machine falls on all; a first round is not
counted. Reading, resizing and drawing images is not part of it.

images/s is of the fastest run (what the machine can do) and of the median run (what it did); the ratio is by the
fastest, to the first row. Where others keep the CPU busy it is told: PyTorch's threads wait for each other, so that
fewer of them (--threads 1, or OMP_NUM_THREADS=1 for any command) are faster then.

Not among the rows is torch.compile, which takes minutes to begin with; for images of several shapes the call is
torch.compile(model, dynamic=True), which makes one graph for all.
"""
EXAMPLES = """\
examples:
  ddetr benchmark detector
  ddetr benchmark detector --size 800x1333 --batch-size 2 --runs 10
  ddetr benchmark detector --backends c torch --dtypes float32 --threads 4
"""
DTYPES = ("float32", "bfloat16", "float16")
BACKENDS = ("c", "triton", "torch", "reference")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_and_size(parser)
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=1, help="images at a time (default 1)")
    parser.add_argument("--runs", metavar="N", type=positive_int, default=5, help="timed runs of each row (default 5)")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="only these (default: all that run here)")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=DTYPES,
        default=["float32", "bfloat16"],
        help="types of numbers (default float32 bfloat16); a model in int8 has one row, int8",
    )
    parser.add_argument(
        "--threads", metavar="N", type=positive_int, help="of PyTorch on a CPU (default: its own choice)"
    )
    add_device(parser)
    add_revision(parser)
    add_json(parser, "print one JSON document, with the seconds of each run")


def run(args: argparse.Namespace) -> int:
    import torch

    from deformable_detr_refine.evaluation.timing import interleaved
    from deformable_detr_refine.inference.load_detector import load_detector
    from deformable_detr_refine.machine import idle_cores

    idle = idle_cores()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, processor = load_detector(args.model or str(default_model()), args.device, args.revision)
    height, width = args.size or processor.resized_shape(*PHOTO)
    backends = _backends(args.backends, model.device)
    pixels = torch.randn(args.batch_size, 3, height, width, generator=torch.Generator().manual_seed(0))
    candidates = _candidates(model, pixels.to(model.device), backends, args.dtypes)
    with tqdm(total=len(candidates) * (args.runs + 1), unit="run", disable=None) as progress:
        times = interleaved(candidates, args.runs, progress.update)

    first = min(next(iter(times.values())))
    report = {
        "model": args.model or str(default_model()),
        "device": str(model.device),
        "processor": _processor(model.device),
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
        "idle_cores": idle,
        "torch": torch.__version__,
        "image": {"height": height, "width": width},
        "batch_size": args.batch_size,
        "rows": [
            {
                "backend": backend,
                "dtype": dtype,
                "images_per_second": {
                    "fastest": args.batch_size / min(runs),
                    "median": args.batch_size / statistics.median(runs),
                },
                "ratio": first / min(runs),
                "seconds": list(runs),
            }
            for (backend, dtype), runs in times.items()
        ],
    }
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0


def _backends(asked: Sequence[str] | None, device: Any) -> list[str]:
    """Those asked for, or all that run on the device, best first.

    Raises:
        ValueError: one that was asked for does not run there.
    """
    from deformable_detr_refine.modeling.ops import backend_report

    rows = {row["backend"]: row for row in backend_report(device)}
    for name in asked or ():
        if not rows[name]["available"]:
            raise ValueError(f"The backend {name} does not run on {device}: {rows[name]['reason']}.")
    return [name for name, row in rows.items() if row["available"] and (not asked or name in asked)]


def _candidates(
    model: Any, pixels: Any, backends: Sequence[str], dtypes: Sequence[str]
) -> dict[tuple[str, str], Callable[[], None]]:
    """By backend and type of numbers, a forward pass that waits for its end."""
    from copy import deepcopy

    import torch

    from deformable_detr_refine import use_backend

    def forward(backend: str, detector: Any, values: Any) -> Callable[[], None]:
        def once() -> None:
            with use_backend(backend), torch.inference_mode():
                detector(values)
            if pixels.device.type != "cpu":
                torch.accelerator.synchronize(pixels.device)

        return once

    candidates = {}
    if model.config.int8:
        return {(name, "int8"): forward(name, model, pixels) for name in backends}
    for dtype in dict.fromkeys(dtypes):
        if dtype == "float16" and pixels.device.type == "cpu":
            raise ValueError("float16 is for accelerators; on a CPU take float32 or bfloat16.")
        detector = deepcopy(model).to(getattr(torch, dtype))
        candidates |= {(name, dtype): forward(name, detector, pixels.to(detector.dtype)) for name in backends}
    return candidates


def _processor(device: Any) -> str:
    from .doctor import accelerator_of, cpu_model

    accelerator = accelerator_of(device)
    return str(accelerator["name"] or device) if accelerator else cpu_model()


def _text(report: dict[str, Any]) -> str:
    from deformable_detr_refine.messages import counted

    image, threads = report["image"], report["threads"]
    using = f", {counted(threads, 'thread')}" if threads else ""
    lines = [
        report["model"],
        f"{report['processor']}{using}, "
        f"torch {report['torch']}; batch of {report['batch_size']}, {image['height']}x{image['width']}",
        "",
        f"{'backend':<12}{'numbers':<12}{'images/s':>10}{'median':>10}{'ratio':>8}",
    ]
    for row in report["rows"]:
        speed = row["images_per_second"]
        lines.append(
            f"{row['backend']:<12}{row['dtype']:<12}{speed['fastest']:>10.3g}{speed['median']:>10.3g}{row['ratio']:>8.2f}"
        )
    if threads and (busy := busy_machine(threads, report["idle_cores"])):
        lines += ["", busy]
    return "\n".join(lines)


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
