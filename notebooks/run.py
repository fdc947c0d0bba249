"""Makes every notebook from its .pct.py (jupytext's percent form), runs it, and keeps what it shows.

    python notebooks/run.py                     all of them
    python notebooks/run.py inference           some
    python notebooks/run.py --check             runs all, writes nothing; also fails where an .ipynb has another text

An error in any cell fails. Cells run in notebooks/; what they write goes to notebooks/output, which is removed after.
Nothing of the machine gets into a notebook: no times, versions, addresses or paths; and an output that differs from the
one before by rounding only is kept as it was, so that a run without a change makes no difference. What cells print as
errors (progress, warnings) is shown here and not kept.
"""

import argparse
import base64
import io
import math
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image, ImageChops, ImageStat

HERE = Path(__file__).resolve().parent
# Pictures as JPEG of this width at most: a notebook stays below 600 kB.
WIDTH, QUALITY = 1120, 76
LARGEST = 600_000
# Not .py: cells run in this folder, where evaluate.py would be found in place of the library.
SOURCE = ".pct.py"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of notebooks, without suffix (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where texts differ")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for a cell (default 900)")
    args = parser.parse_args()
    names = args.names or sorted(file.name.removesuffix(SOURCE) for file in HERE.glob(f"*{SOURCE}"))
    failed = []
    for name in names:
        file = HERE / f"{name}.ipynb"
        start = time.monotonic()
        try:
            notebook = run(HERE / f"{name}{SOURCE}", args.timeout)
            if args.check:
                check_same_cells(notebook, file)
            else:
                keep_what_is_alike(notebook, file)
                write(notebook, file)
        except (CellExecutionError, OSError, ValueError) as error:
            failed.append(name)
            print(f"{name}: FAILED\n{error}", file=sys.stderr)
        else:
            print(f"{name}: ok, {time.monotonic() - start:.0f} s", flush=True)
    return 1 if failed else 0


def run(source: Path, timeout: int) -> nbformat.NotebookNode:
    """The notebook of a .pct.py, executed.

    Raises:
        FileNotFoundError: there is no such file.
        CellExecutionError: a cell raised; the message shows which.
    """
    notebook = jupytext.read(source)
    shutil.rmtree(HERE / "output", ignore_errors=True)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,
        coalesce_streams=True,
    )
    try:
        client.execute()
    finally:
        shutil.rmtree(HERE / "output", ignore_errors=True)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := tidy(output)) is not None]
    pairing = {"formats": f"ipynb,{SOURCE}:percent"}
    notebook.metadata = nbformat.from_dict(
        {"jupytext": pairing, "kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def tidy(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without what changes from run to run, its picture as a JPEG; None for the stream of errors."""
    if output.output_type == "stream":
        if output.name == "stderr":
            sys.stderr.write(output.text)
            return None
        output.text = plain(output.text)
    elif "data" in output:
        data = output.data
        if "image/png" in data:
            picture = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png"))))
            data.pop("image/jpeg", None)
            data["image/jpeg"] = as_jpeg(picture)
        for kind in [kind for kind in data if kind.startswith("text/")]:
            data[kind] = plain(data[kind])
    return output


def as_jpeg(picture: Image.Image) -> str:
    picture = picture.convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def plain(text: str) -> str:
    """Text without addresses in memory, ports, commits, rates, and this machine's folders."""
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = re.sub(r" +[\d.]+ images/s$", "", text, flags=re.MULTILINE)
    text = re.sub(r"[\d.]+ images/s", "... images/s", text)
    text = re.sub(r"decoded in [\d.]+ s", "decoded", text)
    text = re.sub(r"(127\.0\.0\.1|localhost):\d+", r"\1:PORT", text)
    text = re.sub(r"commit/[0-9a-f]{40}", "commit/COMMIT", text)
    for folder, name in ((HERE.parent, ".."), (Path(tempfile.gettempdir()), "TEMPORARY")):
        text = text.replace(str(folder), name)
    return text


def keep_what_is_alike(notebook: nbformat.NotebookNode, file: Path) -> None:
    """Puts outputs of the notebook that stands there in the place of new ones that say the same."""
    if not file.exists():
        return
    for new, old in zip(notebook.cells, nbformat.read(file, as_version=4).cells, strict=False):
        if new.cell_type == "code" and new.source == old.source and len(new.outputs) == len(old.outputs):
            pairs = zip(new.outputs, old.outputs, strict=True)
            new.outputs = [before if alike(after, before) else after for after, before in pairs]


def alike(one: nbformat.NotebookNode, other: nbformat.NotebookNode) -> bool:
    """Whether two outputs differ in the last digits of their numbers at most, or in what no eye sees in a picture."""
    if one.output_type != other.output_type:
        return False
    if one.output_type == "stream":
        return same_numbers(one.text, other.text)
    a, b = one.get("data", {}), other.get("data", {})
    return a.keys() == b.keys() and all(
        same_picture(a[kind], b[kind]) if kind == "image/jpeg" else same_numbers(str(a[kind]), str(b[kind]))
        for kind in a
    )


def same_numbers(one: str, other: str) -> bool:
    """
    >>> same_numbers("best: 0.7221091", "best: 0.722108"), same_numbers("AP 0.583", "AP 0.584")
    (True, False)
    """
    number = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    if re.sub(number, "#", one).split() != re.sub(number, "#", other).split():
        return False
    pairs = zip(re.findall(number, one), re.findall(number, other), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=1e-5, abs_tol=2e-5) for a, b in pairs)


def same_picture(one: str, other: str) -> bool:
    a, b = (Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in (one, other))
    return a.size == b.size and max(ImageStat.Stat(ImageChops.difference(a, b)).mean) < 0.5


def write(notebook: nbformat.NotebookNode, file: Path) -> None:
    """Writes it aside, then into place.

    Raises:
        ValueError: it is too large to be kept.
    """
    text = nbformat.writes(notebook) + "\n"
    if len(text) > LARGEST:
        raise ValueError(f"{file.name} would have {len(text):,} bytes, more than {LARGEST:,}: show fewer pictures.")
    new = file.with_name(f".{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def check_same_cells(notebook: nbformat.NotebookNode, file: Path) -> None:
    """Checks that an .ipynb has the cells of its .pct.py.

    Raises:
        FileNotFoundError: it was not made.
        ValueError: it is of another text.
    """
    kept = nbformat.read(file, as_version=4)
    if [(c.cell_type, c.source) for c in kept.cells] != [(c.cell_type, c.source) for c in notebook.cells]:
        raise ValueError(f"{file.name} was made from another text than {file.stem}{SOURCE}: run `make notebooks`.")


if __name__ == "__main__":
    sys.exit(main())
