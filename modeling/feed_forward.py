"""The feed-forward of a layer, with the residual and the norm that end it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fused_passes import (
    Dropout,
    Norm,
    fused_dropout_,
    fused_path_applies,
    fused_relu_backward_,
    fused_residual_norm,
    fused_residual_norm_backward,
)
from .linear import linear, linear_relu, product, worth_onednn
from .residual_norm import residual_norm

# Tokens whose hidden activations stay in the processor's cache from one product to the next.
_CHUNK = 1024
# Bytes of hidden activations that are kept for backward; computing them again takes less time than the memory for more.
_WORTH_KEEPING = 2**25


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, dropout after each."""

    def __init__(self, width: int, hidden: int, activation_dropout: float, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation_dropout = nn.Dropout(activation_dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """x (B, N, D) -> norm(x + what the layers make of x)."""
        modules = self.fc1, self.fc2, self.activation_dropout, self.dropout, norm
        kinds = nn.Linear, nn.Linear, nn.Dropout, nn.Dropout, nn.LayerNorm
        if tuple(map(type, modules)) == kinds and fused_path_applies(x, *modules) and worth_onednn(x, self.fc1):
            drops = (Dropout(drop.p, drop.training) for drop in (self.activation_dropout, self.dropout))
            weights = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, norm.weight, norm.bias
            return _FeedForward.apply(x, *weights, norm.eps, *drops, torch.is_grad_enabled())
        hidden = self.activation_dropout(linear_relu(x, self.fc1))
        return residual_norm(x, linear(hidden, self.fc2), norm, self.dropout)


class _FeedForward(torch.autograd.Function):
    """Chunk by chunk of tokens, so that hidden activations, four times as wide as tokens, never fill memory."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        gain: Tensor,
        shift: Tensor,
        eps: float,
        inner: Dropout,
        outer: Dropout,
        grad_enabled: bool,
    ) -> Tensor:
        x = x.contiguous()
        # Parameters need a gradient under torch.no_grad() too, as ctx has it.
        needed = grad_enabled and any(ctx.needs_input_grad)
        out, total = torch.empty_like(x), torch.empty_like(x) if needed else None
        rows, out_rows = x.view(-1, x.shape[-1]), out.view(-1, x.shape[-1])
        total_rows = None if total is None else total.view(-1, x.shape[-1])
        kept: list[Tensor] = []
        for first in range(0, len(rows), _CHUNK):
            part = slice(first, first + _CHUNK)
            hidden = _hidden(rows[part], weight1, bias1, inner, first)
            y = product(hidden, weight2, bias2)
            total_part = None if total_rows is None else total_rows[part]
            fused_residual_norm(rows[part], y, Norm(gain, shift, eps), outer, out_rows[part], total_part, first)
            if needed and len(rows) * weight1.shape[0] * 4 <= _WORTH_KEEPING:
                kept.append(hidden)
        ctx.save_for_backward(x, total, weight1, bias1, weight2, gain, shift, *kept)
        ctx.eps, ctx.inner, ctx.outer = eps, inner, outer
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        x, total, weight1, bias1, weight2, gain, shift, *kept = ctx.saved_tensors
        rows, total_rows, grad_rows = (t.reshape(-1, x.shape[-1]) for t in (x, total, grad.contiguous()))
        grad_x = torch.empty_like(rows)
        grad_weight1, grad_weight2 = torch.zeros_like(weight1), torch.zeros_like(weight2)
        grad_bias1 = weight1.new_zeros(len(weight1), dtype=torch.float64)
        grad_bias2, grad_norm = weight2.new_zeros(len(weight2)), gain.new_zeros(2, len(gain), dtype=torch.float64)
        for index, first in enumerate(range(0, len(rows), _CHUNK)):
            part = slice(first, first + _CHUNK)
            to_x = grad_x[part]
            to_y = torch.empty_like(to_x) if ctx.outer.dropped else to_x
            grad_norm += fused_residual_norm_backward(
                grad_rows[part], total_rows[part], Norm(gain, shift, ctx.eps), ctx.outer, to_x, to_y, first
            )
            hidden = kept[index] if kept else _hidden(rows[part], weight1, bias1, ctx.inner, first)
            grad_weight2.addmm_(to_y.t(), hidden)
            grad_bias2 += to_y.sum(0)
            to_hidden = product(to_y, weight2.t())
            grad_bias1 += fused_relu_backward_(to_hidden, hidden, ctx.inner)
            grad_weight1.addmm_(to_hidden.t(), rows[part])
            to_x += product(to_hidden, weight1.t())
        grads = grad_weight1, grad_bias1.to(bias1), grad_weight2, grad_bias2, *grad_norm.to(gain)
        return grad_x.view(x.shape), *grads, None, None, None, None


def _hidden(x: Tensor, weight: Tensor, bias: Tensor, dropout: Dropout, first: int) -> Tensor:
    return fused_dropout_(product(x, weight, bias, "relu"), dropout, first)
