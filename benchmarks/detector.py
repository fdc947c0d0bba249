"""The whole detector on a CPU beside transformers' own: inference, a training step, its memory, the image processor.

    python benchmarks/detector.py --size 800x1333 --only inference,training,memory,images

Both detectors are R-50, two-stage, 80 classes, with weights drawn at random, and see the same pixels; stock's loss is
its own, which leaves the encoder's proposals out and so has less to do. Runs are interleaved. Prints Markdown.
"""

import argparse
import subprocess
import sys

import numpy as np
import torch
from PIL import Image
from timing import interleaved, machine, resident, table
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, DeformableDetrImageProcessor

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)

OURS, STOCK = "this package", "transformers' own"


def detector(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == OURS:
        return DeformableDetrRefineForObjectDetection(DeformableDetrRefineConfig(num_labels=80))
    dropout = {"attention_dropout": 0.1, "activation_dropout": 0.1}  # as ours; `dropout` is the same already
    config = DeformableDetrConfig(num_labels=80, two_stage=True, with_box_refine=True, auxiliary_loss=True, **dropout)
    return DeformableDetrForObjectDetection(config)


def inputs(height: int, width: int, batch: int = 1) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(10, 4, generator=generator) * 0.3 + 0.2
    label = {"class_labels": torch.randint(0, 80, (10,), generator=generator), "boxes": boxes}
    return {
        "pixel_values": torch.randn(batch, 3, height, width, generator=generator),
        "pixel_mask": torch.ones(batch, height, width, dtype=torch.int64),
        "labels": [label] * batch,
    }


def training_step(model: torch.nn.Module, batch: dict[str, object]) -> None:
    model.zero_grad()
    model(**batch).loss.backward()


def inference(model: torch.nn.Module, batch: dict[str, object]) -> None:
    with torch.inference_mode():
        model(batch["pixel_values"], batch["pixel_mask"])


def time_both(work, batch: dict[str, object], runs: int, train: bool) -> str:
    models = {name: detector(name).train(train) for name in (STOCK, OURS)}
    times = interleaved({name: lambda model=model: work(model, batch) for name, model in models.items()}, runs)
    return table(times, {OURS: STOCK})


def peak_memory(name: str, height: int, width: int) -> float:
    """Peak resident memory of one training step, in GB beyond the model itself; called in a process of its own."""
    model, batch = detector(name).train(), inputs(height, width)
    before = resident("VmRSS")
    training_step(model, batch)
    return (resident("VmHWM") - before) / 2**20


def memory_table(size: str) -> str:
    rows = ["| | GB beyond the model | of stock's |", "|---|---|---|"]
    peaks = {}
    for name in (STOCK, OURS):
        command = [sys.executable, __file__, "--peak-memory-of", name, "--size", size]
        peaks[name] = float(subprocess.check_output(command, text=True).splitlines()[-1])
        rows.append(f"| {name} | {peaks[name]:.2f} | {peaks[name] / peaks[STOCK]:.2f} |")
    return "\n".join(rows)


def images_table(runs: int) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels)] * 4
    processors = {STOCK: DeformableDetrImageProcessor(), OURS: DeformableDetrRefineImageProcessor()}
    times = interleaved(
        {name: lambda p=processor: p(images, return_tensors="pt") for name, processor in processors.items()}, 3 * runs
    )
    return table(times, {OURS: STOCK})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="timed runs of each (default 4)")
    parser.add_argument("--size", default="800x1333", help="height x width (default 800x1333)")
    parser.add_argument("--batch", type=int, default=1, help="images in a batch (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--only", default="inference,training,memory,images", help="which tables")
    parser.add_argument("--peak-memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    height, width = map(int, args.size.split("x"))
    if args.peak_memory_of:
        print(peak_memory(args.peak_memory_of, height, width))
        return
    wanted, batch = args.only.split(","), inputs(height, width, args.batch)
    print(f"{machine()}; {args.threads} threads, fp32, batch {args.batch}, {args.size}\n")
    if "inference" in wanted:
        print(f"### Inference\n\n{time_both(inference, batch, args.runs, train=False)}\n")
    if "training" in wanted:
        steps = time_both(training_step, batch, args.runs, train=True)
        print(f"### Training step: forward, loss, backward\n\n{steps}\n")
    if "memory" in wanted:
        print(f"### Peak resident memory of a training step\n\n{memory_table(args.size)}\n")
    if "images" in wanted:
        print(f"### Image processor, 640x480 to 1067x800, four images\n\n{images_table(args.runs)}\n")


if __name__ == "__main__":
    main()
