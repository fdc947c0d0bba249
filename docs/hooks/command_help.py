"""`<!-- help of the verbs -->` becomes links to all verbs and the help of each, as `ddetr VERB --help` prints it."""

import os
import subprocess
import sys

from ddetr.main import VERBS

MARK = "<!-- help of the verbs -->"


def on_page_markdown(markdown, page, config, files):
    if MARK not in markdown:
        return markdown
    sections = [f"## {verb}\n\n```{{ .text .columns }}\n{_help(verb)}```\n" for verb in VERBS]
    index = " · ".join(f"[{verb}](#{verb})" for verb in VERBS)
    return markdown.replace(MARK, "\n".join([f"{index}\n", *sections]))


def _help(verb: str) -> str:
    command = [sys.executable, "-m", "ddetr.main", verb, "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
