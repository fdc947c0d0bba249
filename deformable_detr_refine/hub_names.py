"""Names of models and data sets on the Hub."""

import re

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".safetensors", ".onnx")


def is_hub_name(source: str) -> bool:
    """Whether this has the form OWNER/NAME, and not that of a path or of a file of weights.

    Example:
        >>> is_hub_name("SenseTime/deformable-detr"), is_hub_name("runs/epoch_50.pth"), is_hub_name("./a/b")
        (True, False, False)
    """
    return _HUB_NAME.fullmatch(source) is not None and not source.lower().endswith(_FILES)


__all__ = ["is_hub_name"]
