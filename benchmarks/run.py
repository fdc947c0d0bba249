"""`make bench`: every benchmark that needs no GPU, into benchmarks/RESULTS.md.

    python benchmarks/run.py [--full]

--full adds how the time grows with the image's size and the batch.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# title, script and its arguments
SECTIONS = [
    ("The operator", "deformable_attention.py", ["--rounds", "3"]),
    ("The detector", "detector.py", ["--runs", "3"]),
    ("Beginning", "startup.py", ["5"]),
]
BOTH = ["--only", "inference,training"]
FULL = [
    (f"The detector at {size}", "detector.py", ["--size", size, *BOTH]) for size in ("320x320", "480x640", "640x640")
] + [
    (f"The detector, {batch} images of 320x320", "detector.py", ["--size", "320x320", "--batch", batch, *BOTH])
    for batch in ("2", "4", "8")
]
HEAD = """# Results

Written by `make bench`. Peers are measured in the same run, in turns, so that whatever else the machine does falls on
both: read the ratios, not the seconds.
"""


def main() -> None:
    parts = [HEAD]
    for title, script, arguments in SECTIONS + (FULL if "--full" in sys.argv else []):
        print(f"{script} {' '.join(arguments)}", file=sys.stderr, flush=True)
        output = subprocess.run(
            [sys.executable, HERE / script, *arguments], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        parts.append(f"## {title}\n\n{output.strip()}\n")
    aside = HERE / "RESULTS.md.new"
    aside.write_text("\n".join(parts))
    os.replace(aside, HERE / "RESULTS.md")
    print(f"Written: {HERE / 'RESULTS.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
