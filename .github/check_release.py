"""Before a release: do tag, versions and changelog agree, and does a wheel's C library open on this machine?

    python .github/check_release.py v0.1.0
    python .github/check_release.py dist/*.whl

Prints what is wrong, and ends with 1 then. Needs nothing but Python 3.11.
"""

import argparse
import importlib.util
import re
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def disagreements(root: Path, tag: str) -> list[str]:
    """What of a repository does not agree with a release of that tag."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version, problems = project["version"], []
    if tag != f"v{version}":
        problems.append(f"The tag is {tag}, but pyproject.toml has version {version}.")
    citation = re.search(r"^version: (.*)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    if not citation or citation[1] != version:
        problems.append(f"CITATION.cff does not have version {version}.")
    newest = re.search(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not newest or not re.fullmatch(re.escape(version) + r" \(\d{4}-\d\d-\d\d\)", newest[1]):
        problems.append(f"CHANGELOG.md does not begin with '## {version} (YYYY-MM-DD)'.")
    if "Repository" not in project["urls"]:
        problems.append("pyproject.toml has no Repository in [project.urls].")
    return problems


def problem_of(wheel: Path) -> str | None:
    """Why the wheel's C library is of no use here, or None."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        modeling = Path(folder, "deformable_detr_refine", "modeling")
        spec = importlib.util.spec_from_file_location("c_library", modeling / "c_library.py")
        c_library = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(c_library)
        if not c_library.path_of(modeling, "baseline").exists():
            return f"{wheel} has no C library: nothing compiled it."
        reason = c_library.library()[1]
        return reason and f"{wheel}: {reason}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="a tag, or files that end with .whl")
    problems = []
    for word in parser.parse_args().what:
        problems += filter(None, [problem_of(Path(word))]) if word.endswith(".whl") else disagreements(ROOT, word)
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
