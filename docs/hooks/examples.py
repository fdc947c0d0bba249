"""An extension of griffe, which reads the sources for mkdocstrings and imports nothing: `Example:` is `Examples:`.

It knows sections of examples by the plural only; the singular's lines would be lost.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
