"""`make bench`: every benchmark that needs no GPU, into benchmarks/RESULTS.md and its plot.

    python benchmarks/run.py                    # all but the slow ones: under 15 minutes on two quiet cores
    python benchmarks/run.py --full             # all, with curves over size and batch, and torch.compile
    python benchmarks/run.py --full --missing   # only what has no result yet, as after a run that was stopped
    python benchmarks/run.py inference limit    # only these

What was measured is kept in results.json, each section as soon as it is done: one that fails, or is not run again,
leaves the others as they are. Results of another machine or of other versions are thrown away.
"""

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from timing import machine

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


@dataclass(frozen=True)
class Section:
    """A part of the page: what runs for it."""

    title: str
    script: str
    arguments: tuple[str, ...] = ()
    slow: bool = False


SECTIONS = {
    "operator": Section("The operator", "deformable_attention.py", ("--rounds", "3")),
    "inference": Section("Inference", "detector.py", ("--runs", "4", "--only", "inference")),
    "training": Section("Training", "detector.py", ("--runs", "3", "--only", "training")),
    "memory": Section("Memory of training", "detector.py", ("--only", "memory")),
    "limit": Section("The limit", "limit.py", ("--runs", "3")),
    "bfloat16": Section("bfloat16", "variants.py", ("--runs", "3")),
    "transformers": Section(
        "transformers' own models on the operator", "transformers_models.py", ("--runs", "3"), slow=True
    ),
    "transformers-training": Section(
        "Training transformers' own models on the operator",
        "transformers_models.py",
        ("--work", "training", "--runs", "2", "--only", "deformable_detr", "rt_detr"),
        slow=True,
    ),
    "images": Section("Preparing images", "detector.py", ("--only", "images")),
    "loader": Section("Loading training images", "loader.py"),
    "startup": Section("Beginning", "startup.py", ("--runs", "4")),
    "sizes": Section("By the image's size", "curve.py", ("320x320", "480x640", "640x853", "800x1333"), slow=True),
    "batches": Section("By the batch", "curve.py", ("320x320", "2*320x320", "4*320x320", "8*320x320"), slow=True),
    "compile": Section("torch.compile", "variants.py", ("--runs", "3", "--compile"), slow=True),
}
HEAD = """# Results

Written by `make bench` (and `make bench-full`). Peers are measured in the same run, in turns, so that whatever else the
machine does falls on all: read the ratios, which are of the minima, not the seconds.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--full", action="store_true", help="the slow sections too")
    parser.add_argument("--missing", action="store_true", help="only sections without a result")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page and the plot again")
    args = parser.parse_args()
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not args.render and kept.get("machine") != machine():
        kept = {"machine": machine(), "sections": {}}
    sections = args.sections or [name for name, section in SECTIONS.items() if args.full or not section.slow]
    failed = []
    for name in [] if args.render else sections:
        if args.missing and name in kept["sections"]:
            continue
        if result := measured(SECTIONS[name]):
            kept["sections"][name] = result
            _write(RESULTS, json.dumps(kept, indent=1) + "\n")
        else:
            failed.append(name)
    subprocess.run([sys.executable, HERE / "plot.py"], check=True)
    _write(HERE / "RESULTS.md", page(kept))
    print(f"Written: {HERE / 'RESULTS.md'}", file=sys.stderr)
    if failed:
        print(f"Failed: {', '.join(failed)}; python benchmarks/run.py {' '.join(failed)}", file=sys.stderr)
    return bool(failed)


def measured(section: Section) -> dict | None:
    """Runs a section's script; None when it fails, which its own output tells."""
    print(f"{section.script} {' '.join(section.arguments)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="ddetr-bench-") as folder:
        numbers = Path(folder) / "numbers.json"
        begin, busy, own = time.perf_counter(), _busy(), _children()
        done = subprocess.run(
            [sys.executable, HERE / section.script, *section.arguments, "--numbers", numbers],
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            return None
        seconds = time.perf_counter() - begin
        others = max(0.0, _busy() - busy - (_children() - own)) / (seconds * (os.cpu_count() or 1))
        print(f"  {seconds:.0f} s, others had {others:.0%} of the machine", file=sys.stderr, flush=True)
        return {
            "date": datetime.date.today().isoformat(),
            "seconds": round(seconds),
            "others": round(others, 3),
            "text": done.stdout.strip(),
            "numbers": json.loads(numbers.read_text()),
        }


def _busy() -> float:
    """Processor seconds that all processes of the machine have had; Linux, else 0."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _children() -> float:
    """Processor seconds of this process's children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def page(kept: dict) -> str:
    parts = [f"{HEAD}{kept['machine']}.\n"]
    if (HERE / "results.svg").exists():
        parts.append("![Times and speed-ups of this package and its peers](results.svg)\n")
    for name, section in SECTIONS.items():
        if result := kept["sections"].get(name):
            took = f"{result['seconds']} s" if result["seconds"] < 120 else f"{result['seconds'] / 60:.0f} min"
            by = f"`{section.script.removesuffix('.py')}`, {result['date']}, {took}"
            busy = f"; **other processes had {result['others']:.0%} of the machine**" if result["others"] > 0.1 else ""
            parts.append(f"## {section.title}\n\n{result['text']}\n\n{by}{busy}.\n")
    return "\n".join(parts)


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
