"""Linear layers over many tokens: in fp32 on a CPU through oneDNN, which adds the bias and cuts at zero as it goes.

The layers are nn.Linear itself, but for the class heads: `torch.ao` and others look for exactly that.

PyTorch's own way on a CPU writes the bias out over the whole result before it multiplies, and leaves the product to
MKL: on an AMD Zen 5 it took 1.15 to 2.2 times as long (22,223 tokens, 256 to 1024 channels, 1 and 2 threads). With one
thread it leaves convolutions of 1x1 to MKL too, where those of an R-50 took 2.0 times as long (480x640).
"""

from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .int8_layers import Int8Linear
from .plain_calls import plain_modules, plain_operations

# Below so many tokens the two ways take the same time.
_MANY_TOKENS = 128
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    """layer(x), (..., in) -> (..., out): the same numbers up to rounding. The layer may be any module of this form."""
    return _OneDNN.apply(x, layer.weight, layer.bias, False) if _is_plain(x, layer) else layer(x)


def linear_relu(x: Tensor, layer: nn.Module) -> Tensor:
    """relu(layer(x)), in one pass where the layer is an nn.Linear that nobody else has a part in."""
    if isinstance(layer, Int8Linear):  # which was made to cut at zero itself
        return layer(x)
    return _OneDNN.apply(x, layer.weight, layer.bias, True) if _is_plain(x, layer) else layer(x).relu()


def convolution(x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What conv, in whose calls nobody else has a part, makes of x with these for its own weight and bias."""
    pointwise = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    if not (pointwise and x.dim() == 4 and worth_onednn(x, conv) and torch.get_num_threads() == 1):
        return conv._conv_forward(x, weight, bias)
    return torch.mkldnn_convolution(x, weight, bias, [0, 0], [1, 1], [1, 1], 1)


def _is_plain(x: Tensor, layer: nn.Module) -> TypeGuard[nn.Linear]:
    own = type(layer).forward is nn.Linear.forward
    return own and plain_modules(layer) and worth_onednn(x, cast("nn.Linear", layer))


def worth_onednn(x: Tensor, layer: nn.Linear | nn.Conv2d) -> bool:
    weight = layer.weight
    return (
        plain_operations(x, weight, layer.bias)
        and _HAS_ONEDNN
        and torch._C._get_mkldnn_enabled()  # torch.backends.mkldnn.enabled, which takes 0.5 us to ask
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= _MANY_TOKENS * weight.shape[1]
        and not torch.is_autocast_enabled("cpu")
    )


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """a (M, K), b (N, K) -> a b' + bias, (M, N)."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, activation, [], "")


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        # Rows that lie apart, as those of half a tensor, take oneDNN up to a thousand times as long.
        x = x.contiguous()
        output = product(x.view(-1, x.shape[-1]), weight, bias, "relu" if relu else "none")
        ctx.save_for_backward(x, weight, output if relu else None)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        x, weight, output = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1]).contiguous()
        if output is not None:
            grad = torch.ops.aten.threshold_backward(grad, output, 0)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = product(grad, weight.t()).view(x.shape) if needs_x else None
        # A sum over many tokens is the one product that MKL takes less time for: 0.7 to 0.95 of oneDNN's.
        grad_weight = grad.t() @ x.view(-1, x.shape[-1]) if needs_weight else None
        return grad_x, grad_weight, grad.sum(0) if needs_bias else None, None
