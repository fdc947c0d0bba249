"""Proves and measures this package on one NVIDIA GPU, part by part, in nine minutes.

    python benchmarks/gpu_session.py --output OUT                          # status 1: something is wrong; 2: no GPU
    python benchmarks/gpu_session.py --output OUT --data BCCD --backbone-weights tf_efficientnet_lite0.safetensors
    python benchmarks/gpu_session.py --output OUT --parts machine,operator --minutes 3

It needs the package with its extra `train`, this folder and `samples/`, and no network. Every part runs in a process of
its own, within its share of the time; what it has found by then counts, and the others go on. OUT gets `summary.md`,
`results.json` and `log.txt`, written anew whenever a part ends. `--device cpu` runs the parts with tiny sizes, to see
that they work: its figures mean nothing.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu_parts.report import Report, Session, summary

# Seconds of nine minutes. Parts of one line run at the same time.
PARTS = (
    {"machine": 20},
    {"triton_code": 25},
    {"operator": 50},
    {"speed": 40},
    {"inference": 45},
    {"training": 35},
    {"compiled": 55},
    {"detector": 225, "parity": 225},
    {"precision": 35},
)
NAMES = [name for together in PARTS for name in together]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=9, help="all parts share them (default 9)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", default=",".join(NAMES), help="some of %(default)s")
    parser.add_argument("--data", type=Path, help="BCCD's folder, to train on (default: the three images of samples/)")
    parser.add_argument(
        "--backbone-weights", type=Path, help="train a new detector from these; without: samples/'s goes on"
    )
    parser.add_argument("--tune", action="store_true", help="also time the operator autotuned, which takes minutes")
    args = parser.parse_args()
    if unknown := [name for name in args.parts.split(",") if name not in NAMES]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(NAMES)}")
    # Children are forked: what takes seconds to import is imported once. CUDA must not be touched before they are.
    import torch

    import deformable_detr_refine.training.trainer  # noqa: F401

    if args.device == "cpu":
        torch.set_num_threads(1)  # threads of tiny work only wait for each other
    args.output.mkdir(parents=True, exist_ok=True)
    reports = []
    with TemporaryDirectory(prefix="ddetr-gpu-") as folder:
        options = args.device, Path(folder), args.data, args.backbone_weights, args.tune
        end = time.monotonic() + 60 * args.minutes
        for together in PARTS:
            shares = {name: share * args.minutes / 9 for name, share in together.items() if name in args.parts}
            left = end - time.monotonic()
            reports += _run({name: min(share, left) for name, share in shares.items()}, options, args.output)
            (args.output / "results.json").write_text(json.dumps(reports, indent=1))
            (args.output / "summary.md").write_text(summary(reports))
            if reports and reports[0].get("no_gpu"):
                print(reports[0]["no_gpu"], file=sys.stderr)
                return 2
    print(summary(reports))
    return int(any(report["state"] != "done" or report["wrong"] for report in reports))


def _run(shares: dict[str, float], options: tuple, output: Path) -> list[dict[str, Any]]:
    """Run these parts at the same time, each for at most its share of seconds; returns what they found."""
    work, begun, running = options[1], time.monotonic(), {}
    for name, share in shares.items():
        session = Session(name, *options, limit=share)
        process = multiprocessing.get_context("fork").Process(target=_child, args=(session, output / "log.txt"))
        process.start()
        running[name] = process
    found = []
    for name, process in running.items():
        process.join(max(0.1, begun + shares[name] - time.monotonic()))
        seconds, over = time.monotonic() - begun, process.is_alive()
        if process.pid:  # with whatever it has started
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.join(10)
        report = Report.read(work, name)
        if over:
            report["state"] = f"stopped after its {shares[name]:.0f} s"
        elif report["state"] == "begun":
            report["state"] = f"ended with status {process.exitcode}"
        report["seconds"] = round(seconds, 1)
        print(f"{name}: {report['state']}, {seconds:.0f} s", *report["wrong"], sep="\n  ", flush=True)
        found.append(report)
    return found


def _child(session: Session, log: Path) -> None:
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print(f"\n==== {session.part}", flush=True)
    report = Report(session)
    try:
        importlib.import_module(f"gpu_parts.{session.part}").run(session, report)
        report.end("done")
    except BaseException as error:  # whatever it is, the other parts go on
        traceback.print_exc()
        report.end(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    sys.stdout.flush()
    # Not through the interpreter's end, which a library's threads may hold up.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
