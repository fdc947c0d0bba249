"""Frozen batch norm as part of the convolution before it.

Batch norm that never trains is a factor and a summand for each channel, and a convolution can have both in its own
weight and bias. Nothing else changes: names, values and gradients stay, a saved model knows nothing of it. It saves a
pass over every feature map and, in training, the copy of each that the norm would keep for its gradient.
"""

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm


def fold_frozen_norms(network: nn.Module) -> int:
    """Let every plain convolution that feeds one batch norm and nothing else do that norm's work.

    Returns:
        How many pairs were found; 0 for a network that torch.fx cannot trace, which then runs as it is.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # whatever a network's Python does with a proxy; the unfolded network is right too
        return 0
    modules = dict(network.named_modules())
    pairs = 0
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if isinstance(norm, _BatchNorm) and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv = modules[str(before.target)]
        if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats:
            _fold(conv, norm)
            pairs += 1
    return pairs


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    conv.__class__ = _ConvWithNorm
    # Not through __setattr__, which would register the norm, and its parameters' names, a second time.
    conv.__dict__["norm"] = norm
    norm.__class__ = _DoneByConv


class _ConvWithNorm(nn.Conv2d):
    norm: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        # A call, not a look at its tensors: hooks that bring offloaded tensors run at calls only.
        factor, summand = self.norm(None)
        if self.bias is not None:
            summand = summand + self.bias * factor
        return self._conv_forward(x, self.weight * factor.view(-1, 1, 1, 1), summand)


class _DoneByConv(nn.BatchNorm2d):
    """What is left of the norm: its parameters and, where timm made them one module, the activation after it."""

    # Only norms that track them are folded.
    running_mean: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    running_var: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        if x is None:  # the convolution asks
            factor = self.weight * torch.rsqrt(self.running_var + self.eps)
            return factor, self.bias - self.running_mean * factor
        return self.act(self.drop(x)) if hasattr(self, "act") else x


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _BatchNorm | nn.Conv2d) or super().is_leaf_module(module, name)
