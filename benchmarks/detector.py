"""The whole detector on a CPU beside transformers' own and MMDetection: inference, a training step, its memory, and
the image processor beside transformers' own.

    python benchmarks/detector.py --size 800x1333 --only inference,training,memory,images

What is compared is in contenders.py. Runs are interleaved. Prints Markdown.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from contenders import (
    MMDET,
    OURS,
    PEERS,
    STOCK,
    WORK,
    Batch,
    Local,
    contenders,
    inputs,
    mmdetection,
    our_detector,
    stock_detector,
)
from PIL import Image
from timing import interleaved, resident, shape_of, table, write_numbers
from transformers import DeformableDetrImageProcessor

from deformable_detr_refine import DeformableDetrRefineImageProcessor


def times_tables(works: list[str], args: argparse.Namespace, size: tuple[int, int]) -> tuple[str, dict]:
    """Inference and training: Markdown, and the minima in seconds by name."""
    parts, numbers = [], {}
    with contenders(args.threads, not args.without_mmdetection) as by_name:
        for contender in by_name.values():
            contender.take(inputs(*size, args.batch))
        for work in works:
            times = interleaved({name: getattr(contender, work) for name, contender in by_name.items()}, args.runs)
            parts.append(f"### {WORK[work]}\n\n{table(times, PEERS)}")
            numbers[work] = {name: min(runs) for name, runs in times.items() if runs}
            if work == "inference" and times[MMDET]:
                apart = (by_name[MMDET].best_scores() - by_name[OURS].best_scores()).abs().max()
                parts.append(f"With the same weights, the 100 best scores of the two differ by at most {apart:.1e}.")
    return "\n\n".join(parts), numbers


def peak_memory(name: str, batch: Batch, threads: int) -> float:
    """Peak resident memory of one training step, in GB beyond the model itself; called in a process of its own."""
    if name == MMDET:
        with mmdetection(our_detector(), threads) as theirs:
            theirs.take(batch)
            return theirs.peak_memory()
    contender = Local(our_detector() if name == OURS else stock_detector())
    contender.take(batch)
    before = resident("VmRSS")
    contender.training()
    return (resident("VmHWM") - before) / 2**20


def memory_table(args: argparse.Namespace) -> tuple[str, dict]:
    peaks = {}
    for name in (STOCK, OURS) if args.without_mmdetection else (STOCK, MMDET, OURS):
        command = [sys.executable, __file__, "--peak-memory-of", name, "--size", args.size]
        command += ["--batch", str(args.batch), "--threads", str(args.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode == 0:
            peaks[name] = float(done.stdout.splitlines()[-1])
        elif name != MMDET:
            raise ChildProcessError(f"{name}: no training step was done.")
    rows = ["| | GB beyond the model | of stock's |", "|---|---|---|"]
    rows += [f"| {name} | {peak:.2f} | {peak / peaks[STOCK]:.2f} |" for name, peak in peaks.items()]
    if MMDET not in peaks:
        rows.append(f"| {MMDET} | not measured | |")
    return "### Peak resident memory of a training step\n\n" + "\n".join(rows), peaks


def images_table(runs: int) -> tuple[str, dict]:
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels)] * 4
    processors = {STOCK: DeformableDetrImageProcessor(), OURS: DeformableDetrRefineImageProcessor()}
    times = interleaved(
        {name: lambda p=processor: p(images, return_tensors="pt") for name, processor in processors.items()}, 5 * runs
    )
    rates = {name: len(images) / min(runs) for name, runs in times.items()}
    rows = ["| | images/s | of stock's |", "|---|---|---|"]
    rows += [f"| {name} | {rate:.0f} | {rate / rates[STOCK]:.2f} |" for name, rate in rates.items()]
    return "### Image processor, 640x480 to 1067x800, four images\n\n" + "\n".join(rows), rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="timed runs of each (default 4)")
    parser.add_argument("--size", default="800x1333", help="height x width (default 800x1333)")
    parser.add_argument("--batch", type=int, default=1, help="images in a batch (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--only", default="inference,training,memory,images", help="which tables")
    parser.add_argument("--without-mmdetection", action="store_true", help="do not set it up and run it")
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    parser.add_argument("--peak-memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = shape_of(args.size)
    if args.peak_memory_of:
        print(peak_memory(args.peak_memory_of, inputs(*size, args.batch), args.threads))
        return
    tables = args.only.split(",")
    numbers = {"size": args.size, "batch": args.batch}
    print(f"{args.threads} threads, fp32, batch {args.batch}, {args.size}.\n")
    if timed := [work for work in WORK if work in tables]:
        text, seconds = times_tables(timed, args, size)
        print(f"{text}\n", flush=True)
        numbers |= seconds
    for name, make in (("memory", lambda: memory_table(args)), ("images", lambda: images_table(args.runs))):
        if name in tables:
            text, numbers[name] = make()
            print(f"{text}\n", flush=True)
    write_numbers(args.numbers, numbers)


if __name__ == "__main__":
    main()
