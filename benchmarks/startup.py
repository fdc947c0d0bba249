"""How long it takes until one can begin: imports and commands, each as a process of its own, beside transformers' own.

    python benchmarks/startup.py [RUNS]

Prints a Markdown table. Runs are interleaved, so that a busy moment of the machine meets every row.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

PYTHON = sys.executable
DDETR = str(Path(PYTHON).with_name("ddetr"))
TRANSFORMERS = str(Path(PYTHON).with_name("transformers"))
# What a detection script imports from transformers anyway, and the same with this package.
THEIRS = "from transformers import AutoModelForObjectDetection, AutoImageProcessor, DeformableDetrForObjectDetection"
OURS = "from deformable_detr_refine import DeformableDetrRefineForObjectDetection, DeformableDetrRefineImageProcessor"
# name -> (command, name of its peer)
ROWS = {
    "import transformers' own detector": ([PYTHON, "-c", THEIRS], None),
    "import this package": ([PYTHON, "-c", OURS], "import transformers' own detector"),
    "transformers --help": ([TRANSFORMERS, "--help"], None),
    "ddetr --help": ([DDETR, "--help"], "transformers --help"),
    "ddetr detect --help": ([DDETR, "detect", "--help"], "transformers --help"),
    "ddetr doctor": ([DDETR, "doctor"], "import transformers' own detector"),
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd="/")
    return time.perf_counter() - start


def main(runs: int = 7) -> None:
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for run in range(runs + 1):
        for name, (command, _) in ROWS.items():
            elapsed = seconds(command)
            if run:  # the first fills the caches of the disk
                times[name].append(elapsed)
    print("| | minimum, s | median, s | of its peer's minimum |\n|---|---|---|---|")
    for name, (_, peer) in ROWS.items():
        ratio = f"{min(times[name]) / min(times[peer]):.2f} x {peer}" if peer else ""
        print(f"| {name} | {min(times[name]):.2f} | {statistics.median(times[name]):.2f} | {ratio} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
