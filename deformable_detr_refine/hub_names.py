"""Names of models and data sets on the Hub, and whether it can be asked."""

import re
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".safetensors", ".onnx")


def is_hub_name(source: str) -> bool:
    """Whether this has the form OWNER/NAME, and not that of a path or of a file of weights.

    Example:
        >>> is_hub_name("SenseTime/deformable-detr"), is_hub_name("runs/epoch_50.pth"), is_hub_name("./a/b")
        (True, False, False)
    """
    return _HUB_NAME.fullmatch(source) is not None and not source.lower().endswith(_FILES)


def hub_has_an_address() -> bool:
    """Whether the Hub can be asked; where its host has no address, its client would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if {"https", "http", "all"} & getproxies().keys():  # which know addresses that this machine does not
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


__all__ = ["hub_has_an_address", "is_hub_name"]
