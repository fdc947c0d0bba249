"""The notebooks as pages, with the outputs that they hold; nothing is executed here (`make notebooks` does that)."""

import re
from pathlib import Path

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# As one meets them; others follow.
FIRST = (
    "inference",
    "finetune_fridge_objects",
    "convert_mmdetection",
    "evaluate",
    "look_inside",
    "online_endpoint",
    "batch_endpoint",
    "push_to_hub",
)


def found():
    files = sorted(NOTEBOOKS.glob("*.ipynb"))
    return sorted(files, key=lambda file: FIRST.index(file.stem) if file.stem in FIRST else len(FIRST))


def on_config(config):
    pages = [f"notebooks/{file.stem}.md" for file in found()]
    place = next(i for i, entry in enumerate(config.nav) if "How it works" in entry)
    if pages:
        config.nav.insert(place, {"Notebooks": pages})
    return config


def on_files(files, config):
    for file in found():
        text, resources = MarkdownExporter().from_filename(str(file), {"output_files_dir": f"{file.stem}_files"})
        text = re.sub(r"\n(?:[ \t]*\n){3,}", "\n\n", text)  # it keeps several outputs of a cell far apart
        text = re.sub(r"!\[\w+\]\((\S+)\)", r"[![output](\1)](\1)", text)  # a click shows a picture in its full size
        text = f"---\nhide: [toc]\n---\n\n{text}"  # the pictures need the room
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=text))
        for path, content in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{path}", content=content))
    return files
