"""A head over many tokens of which few get a gradient: the first stage's boxes, where only the matched ones do.

Forward keeps nothing; backward computes the rows again that have a gradient. The numbers are the head's own. It is for
CPUs: an accelerator would have to be waited for, to learn which rows those are, and computes all of them in less.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .heads import BoxHead
from .plain_calls import plain_modules, plain_operations

# Work on each row by itself and draw nothing at random: rows may be computed again, alone.
_ROW_BY_ROW = {BoxHead, nn.Linear, nn.ReLU}


def with_sparse_gradient(head: nn.Module, x: Tensor) -> Tensor:
    """head(x), x (..., D)."""
    modules, parameters = list(head.modules()), list(head.parameters())
    row_by_row = {type(module) for module in modules} <= _ROW_BY_ROW and plain_modules(*modules)
    if x.device.type == "cpu" and row_by_row and torch.is_grad_enabled() and plain_operations(x, *parameters):
        return _SparseGradient.apply(head, x, *parameters)
    return head(x)


class _SparseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        device = x.device.type
        ctx.head, ctx.autocast = head, (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(x, *parameters)
        return head(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        x, *parameters = ctx.saved_tensors
        rows = (grad != 0).any(-1)
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            few = x[rows].requires_grad_()
            output = ctx.head(few)
        inputs = [t for t, needed in zip((few, *parameters), ctx.needs_input_grad[1:], strict=True) if needed]
        grads = iter(torch.autograd.grad(output, inputs, grad[rows]))
        grad_few, *others = (next(grads) if needed else None for needed in ctx.needs_input_grad[1:])
        grad_x = None
        if grad_few is not None:
            grad_x = torch.zeros_like(x)
            grad_x[rows] = grad_few
        return None, grad_x, *others
