"""Files of the repository outside docs/ as pages and pictures of the site, and links that fit both.

A link is written as it holds in the repository (`../../benchmarks/RESULTS.md` in a guide), so that it works wherever
the repository is looked at. For the site, where docs/ is the root and the other files stand beside its pages, it is
written anew; mkdocs then checks it like any other.
"""

import posixpath
import re
from pathlib import Path

import yaml
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[2]
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "benchmarks").glob("*.md")),
    "samples/LICENSES.md",
    "samples/README.md",
    "samples/blood-cells/README.md",
    "serving/README.md",
    "serving/deploy/README.md",
)
OTHERS = (
    "LICENSE",
    "CITATION.cff",
    "benchmarks/**/*.svg",
    "configs/*",
    "samples/blood-cells/*.svg",
    "samples/blood-cells/settings.yaml",
    "samples/blood-cells/drawn/*.jpg",
)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(?=[)#])")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    listed = yaml.safe_dump(config.nav)
    found = [ROOT / page for page in PAGES] + [file for pattern in OTHERS for file in sorted(ROOT.glob(pattern))]
    for file in found:
        if file.is_file():
            uri = file.relative_to(ROOT).as_posix()
            level = InclusionLevel.INCLUDED if uri in listed else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, uri, abs_src_path=str(file), inclusion=level))
    return files


def on_page_markdown(markdown, page, config, files):
    source = page.file.src_uri
    in_docs = source not in PAGES and not source.startswith("notebooks/")
    here = posixpath.dirname(f"docs/{source}" if in_docs else source)
    site_here = posixpath.dirname(source)

    def rewritten(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(here, link[1]))
        if target == "README.md":  # what the repository begins with, the site does with its start page
            target = "docs/index.md"
        target = re.sub(r"^(notebooks/.+)\.ipynb$", r"\1.md", target)
        return posixpath.relpath(target.removeprefix("docs/"), site_here or ".")

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(rewritten, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(rewritten, markdown[end:])])
