"""The end of a sublayer: layer norm of the residual and what the sublayer adds, with dropout."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .fused_passes import Dropout, Norm, fused_path_applies, fused_residual_norm, fused_residual_norm_backward


def residual_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout) -> Tensor:
    """x and y (..., D) -> norm(x + dropout(y)), in one pass where the C library can."""
    if (
        type(norm) is nn.LayerNorm
        and type(dropout) is nn.Dropout
        and x.shape == y.shape
        and fused_path_applies(y, norm, dropout)
        and fused_path_applies(x)
    ):
        drop = Dropout(dropout.p, dropout.training)
        return _ResidualNorm.apply(x, y, norm.weight, norm.bias, norm.eps, drop, torch.is_grad_enabled())
    return norm(x + dropout(y))


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, dropout: Dropout, grad_enabled: bool
    ) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        # Parameters need a gradient under torch.no_grad() too, as ctx has it.
        needed = grad_enabled and any(ctx.needs_input_grad)
        out, total = torch.empty_like(x), torch.empty_like(x) if needed else None
        x_rows, y_rows, out_rows = (tensor.view(-1, x.shape[-1]) for tensor in (x, y, out))
        total_rows = None if total is None else total.view(-1, x.shape[-1])
        fused_residual_norm(x_rows, y_rows, Norm(weight, bias, eps), dropout, out_rows, total_rows)
        ctx.save_for_backward(total, weight, bias)
        ctx.eps, ctx.dropout = eps, dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        total, weight, bias = ctx.saved_tensors
        grad_x = torch.empty_like(total)
        grad_y = torch.empty_like(total) if ctx.dropout.dropped else grad_x
        rows, total_rows, x_rows, y_rows = (
            tensor.view(-1, total.shape[-1]) for tensor in (grad.contiguous(), total, grad_x, grad_y)
        )
        norm = Norm(weight, bias, ctx.eps)
        grads = fused_residual_norm_backward(rows, total_rows, norm, ctx.dropout, x_rows, y_rows)
        return grad_x, grad_y, *grads.to(weight), None, None, None
