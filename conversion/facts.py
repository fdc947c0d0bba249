"""What a config of another code base says about a model of this family, in the fields of our configuration."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ConfigFacts:
    """
    Attributes:
        fields: fields of DeformableDetrRefineConfig, only those that the config settles; `num_labels` too.
        defaults: what the code base takes for a field that its config leaves out, where that is not its released one.
        processor: fields of DeformableDetrRefineImageProcessor.
        class_names: of the data sets, or None.
        notes: what the config says and this package does otherwise, in sentences.
        version: of the code base that wrote it ('3.x' or '2.x' for MMDetection), or None.
        raw: the config itself, as it was read.
        speaker: what it is called in messages: 'the config', or what else it is.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    version: str | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    speaker: str = "the config"


__all__ = ["ConfigFacts"]
