"""What a conversion did, for people and for programs."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class ConversionReport:
    """What was converted, from what, and what had to be assumed.

    Attributes:
        output: the folder written.
        source: name of the file of weights; `sha256`: its digest.
        code_base: who wrote it, as 'MMDetection'; `version`: of that, as '3.x', or None where nothing tells.
        weights_from: which entry of the file was taken.
        config_from: where the config text was found, or None.
        variant: 'plain', 'refine' or 'refine_twostage'.
        labels: class names; `labels_from`: their origin.
        tensors, values: how many were copied.
        assumed: what neither shapes nor text nor a flag told, in sentences.
        notes: what else a user should know.
        fetched_from: the address it was fetched from, or None; `published`: the short name of the published file it is.
        written_by: what the source says about its own origin.
    """

    output: str
    source: str
    sha256: str
    code_base: str
    version: str | None
    weights_from: str
    config_from: str | None
    variant: str
    labels: list[str]
    labels_from: str
    tensors: int
    values: int
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fetched_from: str | None = None
    published: str | None = None
    written_by: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @property
    def form(self) -> str:
        """'MMDetection 3.x'"""
        return f"{self.code_base} {self.version}" if self.version else self.code_base

    def __str__(self) -> str:
        lines = [
            f"{self.source} ({self.form}, {self.weights_from}) -> {self.output}",
            f"  {self.variant}, {len(self.labels)} classes, {self.tensors} tensors, {self.values:,} values",
            f"  config: {self.config_from or 'none'}",
            f"  labels: {self.labels_from}",
            *(f"  assumed: {sentence}" for sentence in self.assumed),
            *(f"  note: {sentence}" for sentence in self.notes),
        ]
        return "\n".join(lines)


__all__ = ["ConversionReport"]
