"""How long it takes until one can begin: imports and commands, each as a process of its own, beside transformers' own.

    python benchmarks/startup.py [--runs 7]

Prints a Markdown table. Runs are interleaved, so that a busy moment of the machine meets every row.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from timing import interleaved, table, write_numbers

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each (default 7)")
    parser.add_argument("--numbers", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    times = interleaved(
        {
            name: lambda command=command: subprocess.run(command, check=True, capture_output=True, cwd="/")
            for name, (command, _) in ROWS.items()
        },
        args.runs,
    )
    print(table(times, {name: (peer,) for name, (_, peer) in ROWS.items() if peer}))
    write_numbers(args.numbers, {name: min(runs) for name, runs in times.items()})


if __name__ == "__main__":
    main()
