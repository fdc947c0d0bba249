"""How inference and a training step grow with the image and with the batch, beside transformers' own and MMDetection.

    python benchmarks/curve.py 320x320 480x640 640x853 800x1333
    python benchmarks/curve.py 320x320 2*320x320 4*320x320 8*320x320

A point is HEIGHTxWIDTH of one image or IMAGES*HEIGHTxWIDTH. Runs of a point are interleaved. Prints Markdown.
"""

import argparse
from pathlib import Path

import torch
from contenders import MMDET, OURS, STOCK, WORK, contenders, inputs
from timing import interleaved, shape_of, speed_up, write_numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", help="such as 480x640 or 4*320x320")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    parser.add_argument("--without-mmdetection", action="store_true", help="do not set it up and run it")
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {
        work: [
            f"| | {STOCK}, s | {MMDET}, s | {OURS}, s | faster than {STOCK} | than {MMDET} |",
            "|---|---|---|---|---|---|",
        ]
        for work in WORK
    }
    numbers = {work: [] for work in WORK}
    with contenders(args.threads, not args.without_mmdetection) as by_name:
        for point in args.points:
            batch, _, size = point.rpartition("*")
            height, width = shape_of(size)
            count = int(batch or 1)
            for contender in by_name.values():
                contender.take(inputs(height, width, count))
            for work in WORK:
                times = interleaved({name: getattr(each, work) for name, each in by_name.items()}, args.runs)
                cells = [f"{min(runs):.3f}" if runs else "not measured" for runs in times.values()]
                cells += [speed_up(times, OURS, peer) for peer in (STOCK, MMDET)]
                images = f"{count} images" if count > 1 else "1 image"
                rows[work].append(f"| {images} of {size} | {' | '.join(cells)} |")
                best = {name: min(runs) for name, runs in times.items() if runs}
                numbers[work].append({"pixels": height * width, "size": size, "batch": count, "seconds": best})
    print(f"{args.threads} threads, fp32; the minimum of {args.runs} runs.\n")
    print("\n\n".join(f"### {title}\n\n" + "\n".join(rows[work]) for work, title in WORK.items()))
    write_numbers(args.numbers, numbers)


if __name__ == "__main__":
    main()
