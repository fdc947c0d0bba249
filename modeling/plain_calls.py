"""Whether a faster form may stand in for PyTorch's own: only where nobody else has a part in the calls.

A layer may be wrapped (LoRA), replaced or given weights of another kind (quantisation), hooked (pruning, offloading,
observers), and operations may be traced, transformed (torch.func), differentiated forwards or counted. Whoever does so
gets the layers and the operations themselves.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

_PLAIN = (Tensor, nn.Parameter)


def plain_operations(*tensors: Tensor | None) -> bool:
    """Whether an operation on these tensors is carried out now, by PyTorch, by nobody else; None stands for none."""
    return (
        not torch.compiler.is_compiling()  # a graph is better left to its compiler
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] (documented, but not in __all__)
        and not transformed()
        and not torch._C._len_torch_dispatch_stack()
        and plain_tensors(*tensors)
    )


def transformed() -> bool:
    """Whether a transform of torch.func or a level of forward-mode AD sees the operations: they know PyTorch's own."""
    return not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def plain_tensors(*tensors: Tensor | None) -> bool:
    """Whether each is a dense tensor of PyTorch's own, or None."""
    for tensor in tensors:
        if tensor is not None and (type(tensor) not in _PLAIN or tensor.layout is not torch.strided):
            return False
    return True


def plain_modules(*modules: nn.Module) -> bool:
    """Whether calling each of these modules runs the forward of its class and nothing else."""
    return not _has_any_global_hook() and not any(map(_has_company, modules))


def _has_company(m: nn.Module) -> bool:
    return bool(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or "forward" in m.__dict__
    )
