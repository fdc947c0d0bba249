"""Throughput of `ddetr batch` on this machine: how to use its cores, and what Ray adds.

    python benchmarks/batch.py                      # the flagship with random weights, images of 640x480
    python benchmarks/batch.py --model detector --shards 4
    python benchmarks/batch.py --ray                # in an environment with Ray

Model loading is left out, but for Ray: the clock runs from when every worker has finished its first shard. Images are
read from JPEG files, detections are encoded, and nothing is written. Prints Markdown.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from serving_page import Section, add_keep
from timing import forward_alone, shape_of

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)
from deformable_detr_refine.machine import usable_cores
from deformable_detr_refine.serving.batch.input import FileInput, Shard
from deformable_detr_refine.serving.batch.shard import BatchSettings, ShardResult
from deformable_detr_refine.serving.batch.workers import run_here

Engine = Callable[[BatchSettings, Iterator[Shard], int | None], Iterator[ShardResult]]


def rate(
    engine: Engine,
    settings: BatchSettings,
    images: FileInput,
    shards: int,
    size: int,
    workers: int,
    begin: bool = False,
) -> float:
    """Images/s of an engine once every worker is at work, or from its beginning on."""
    names = [images.names[i % len(images.names)] for i in range(size * workers * (1 + shards))]
    counted, start = 0, time.perf_counter()
    for number, result in enumerate(engine(settings, FileInput(images.folder, names).shards(size), workers), 1):
        if number == workers and not begin:
            start = time.perf_counter()
        elif number > workers or begin:
            counted += result.images
    return counted / (time.perf_counter() - start)


def write_images(folder: Path, size: tuple[int, int], count: int = 8) -> FileInput:
    generator = np.random.default_rng(0)
    names = [f"{i}.jpg" for i in range(count)]
    for name in names:
        coarse = generator.integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(folder / name, quality=90)
    return FileInput(folder, names)


def write_model(folder: Path) -> Path:
    torch.manual_seed(0)
    DeformableDetrRefineForObjectDetection(DeformableDetrRefineConfig()).save_pretrained(folder)
    DeformableDetrRefineImageProcessor().save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder (default: the flagship, random weights)")
    parser.add_argument("--size", default="480x640", help="height x width of the images (default 480x640)")
    parser.add_argument("--shards", type=int, default=2, help="timed shards a worker (default 2)")
    parser.add_argument("--images", type=int, default=4, help="images in a shard (default 4)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="also on a local Ray")
    add_keep(parser)
    args = parser.parse_args()
    cores = usable_cores()
    model = args.model.name if args.model else "R-50, random weights"
    section = Section(f"Batch: {model}, images of {args.size}")
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder), shape_of(args.size))
        model = args.model or write_model(Path(folder) / "model")
        settings = BatchSettings(str(model), "jsonl", batch_size=args.batch_size, device="cpu")
        ways: dict[str, tuple[Engine, int]] = {f"one process, {cores} threads an image": (run_here, 1)}
        if cores > 1:
            ways[f"{cores} processes, one thread each"] = (run_here, cores)
        if args.ray:
            from deformable_detr_refine.serving.batch.ray_engine import run_on_ray

            ways[f"Ray, {cores} actors, one thread each; its start and the model's included"] = (run_on_ray, cores)
        section.say("| | images/s | images/s a core | images a day and core |\n|---|---|---|---|")
        for name, (engine, workers) in ways.items():
            shards = args.shards * (cores if workers == 1 else 1)
            # Ray hands rows over in bursts, so that the time between them says nothing.
            speed = rate(engine, settings, images, shards, args.images, workers, begin="Ray" in name)
            section.say(f"| {name} | {speed:.3f} | {speed / cores:.3f} | {speed / cores * 86400:,.0f} |")
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        section.say(f"\n{forward_alone(str(model), [shape_of(args.size)])}")
    section.say(f"Peak memory: {own:.2f} GB in one process with all threads, {children:.2f} GB in a worker.")
    if args.keep:
        section.keep()


if __name__ == "__main__":
    main()
