"""`<!-- help of the verbs -->` becomes the help of every verb, as `ddetr VERB --help` prints it."""

import os
import re
import subprocess
import sys

MARK = "<!-- help of the verbs -->"


def on_page_markdown(markdown, page, config, files):
    if MARK not in markdown:
        return markdown
    verbs = re.findall(r"^    (\w+) {2,}\S", _help(), re.MULTILINE)
    if not verbs:
        raise ValueError("`ddetr --help` lists no verbs: the reference of the command line would be empty.")
    sections = [f"## {verb}\n\n```{{ .text .columns }}\n{_help(verb)}```\n" for verb in verbs]
    return markdown.replace(MARK, "\n".join(sections))


def _help(*verb: str) -> str:
    command = [sys.executable, "-m", "ddetr.main", *verb, "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
