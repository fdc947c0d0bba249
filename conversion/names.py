"""Names of weights: tables that serve both directions, and the common names that every table leads to.

In a table `#` stands for a number, `*` for the rest of a name and `(a|b)` for a choice; they occur in the same order on
both sides.

Common names are this package's own, but for what cannot be told without knowing the model's settings:

- `model.decoder.layers.N.self_attn.in_proj_(weight|bias)`: q, k and v in one tensor, where a code base packs them;
- `model.neck.extra.N`: the levels beyond the backbone's, where a code base numbers them by themselves;
- `class_heads.N` and `model.decoder.box_heads.N`: also the first stage's, as number `decoder_layers`, and the one head
  of a plain model once per layer.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

_WILD = re.compile(r"#|\*|\([^)]*\)")


class NameMap:
    """Renames along one side of a table; of several rules that fit, the first."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._rules = [(re.compile(_pattern(source)), _WILD.sub("{}", target)) for source, target in pairs]

    def __call__(self, name: str) -> str | None:
        """The name on the other side, or None where the table has none."""
        for pattern, target in self._rules:
            if parts := pattern.fullmatch(name):
                return target.format(*parts.groups())
        return None


@dataclass(frozen=True)
class NameTable:
    """The names of one code base.

    Attributes:
        pairs: (their name, common name).
        order: beginnings of their names, in the order in which their modules list parameters; after each, beginnings of
            what follows a layer's number, in that order.
        aliases: (beginning of a second name for the same tensor, beginning of the first, the field of our configuration
            with which there is one).
        ignored: pattern of their names that say nothing about the model.
        packs_attention: the decoder's q, k and v are one tensor.
        numbers_extra_levels: the levels beyond the backbone's have numbers of their own.
        counts_batches: batch norms hold how many batches they have seen.
    """

    pairs: tuple[tuple[str, str], ...]
    order: tuple[tuple[str, ...], ...] = ()
    aliases: tuple[tuple[str, str, str], ...] = ()
    ignored: str = r"(?!)"
    packs_attention: bool = True
    numbers_extra_levels: bool = True
    counts_batches: bool = True

    @cached_property
    def to_common(self) -> NameMap:
        return NameMap(self.pairs)

    @cached_property
    def from_common(self) -> NameMap:
        return NameMap(reversed_pairs(self.pairs))

    def place(self, name: str) -> tuple[int, int, int]:
        """Where their name stands among others: family, layer, part of the layer. Within these our order is theirs."""
        family = next((n for n, (start, *_) in enumerate(self.order) if name.startswith(start)), len(self.order))
        layer = re.search(r"(?:^|\.)(?:layers|\w+_branches|\w+_embed|neck\.\w+|input_proj)\.(\d+)\.(.*)", name)
        if layer is None or family == len(self.order):
            return family, 0, 0
        parts = self.order[family][1:]
        return family, int(layer[1]), next((n for n, start in enumerate(parts) if layer[2].startswith(start)), 0)


def reversed_pairs(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(right, left) for left, right in pairs]


def _pattern(template: str) -> str:
    return template.replace(".", r"\.").replace("#", r"(\d{1,6})").replace("*", "(.+)")


__all__ = ["NameMap", "NameTable", "reversed_pairs"]
