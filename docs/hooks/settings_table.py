"""`<!-- settings of NAME -->` becomes a table of a dataclass in training/arguments.py: fields, defaults, help."""

import ast
import re
from pathlib import Path

ARGUMENTS = Path(__file__).parents[2] / "training" / "arguments.py"
_MARK = re.compile(r"<!-- settings of (\w+) -->")


def on_page_markdown(markdown, page, config, files):
    return _MARK.sub(lambda mark: "\n".join(table(mark[1])), markdown)


def table(name):
    tree = ast.parse(ARGUMENTS.read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    yield from ("| setting | default | |", "|---|---|---|")
    for field in found.body:
        if isinstance(field, ast.AnnAssign):
            given = {keyword.arg: keyword.value for keyword in field.value.keywords}
            default = given.get("default") or given["default_factory"]
            default = default.body if isinstance(default, ast.Lambda) else default
            text = "[]" if isinstance(default, ast.Name) else ast.unparse(default)
            (help_,) = ast.literal_eval(given["metadata"]).values()
            yield f"| `--{field.target.id}` | `{text}` | {help_.replace('|', chr(92) + '|')} |"
