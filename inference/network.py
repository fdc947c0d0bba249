"""What computes, whichever runtime it is in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Network(NamedTuple):
    """What computes, as PyTorch or ONNX Runtime."""

    # {"pixel_values" (B, 3, height, width), "pixel_mask" (B, height, width)} -> `logits`, `pred_boxes`
    forward: Callable[[dict[str, torch.Tensor]], Any]
    processor: Any
    id2label: dict[int, str]


__all__ = ["Network"]
