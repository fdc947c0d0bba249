"""A pretended GPU: tensors that say they are on cuda:0 and hold CPU data.

An operation that mixes them with tensors of the CPU fails as it would on a GPU, and what a program would wait for the
device for is counted. It says nothing of a GPU's numbers or speed.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from deformable_detr_refine.modeling import plain_calls

_GPU = torch.device("cuda:0")
# Their output's size is known only when the device has answered.
_SIZED_BY_VALUES = {"nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "equal", "bincount"}
_LAUNCH_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class PretendedTensor(Tensor):
    """A tensor of the pretended GPU."""

    held: Tensor
    device = property(lambda self: _GPU)  # pyright: ignore[reportAssignmentType]
    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]
    is_meta = property(lambda self: False)  # pyright: ignore[reportAssignmentType]
    # As torch documents it for subclasses.
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, held: Tensor) -> "PretendedTensor":
        return Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("meta"),
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held.detach()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, Counter())


def on_gpu(value: Any) -> Any:
    """Tensors, lists and dicts of tensors, and modules (in place), moved to the pretended GPU."""
    if isinstance(value, nn.Module):
        for module in value.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    moved = PretendedTensor(parameter.data.clone())
                    module._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else PretendedTensor(buffer.clone())
        return value
    return tree_map(lambda leaf: PretendedTensor(leaf) if isinstance(leaf, Tensor) else leaf, value)


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Within the block the pretended GPU is there; gives what was waited for, and `launch`, how many kernels ran.

    A list of tensors counts as one kernel. The model takes the way that it takes on a GPU: the pretence is no company.
    """
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(patch.object(plain_calls, "_PLAIN", (*plain_calls._PLAIN, PretendedTensor)))
        stack.enter_context(patch.object(torch._C, "_len_torch_dispatch_stack", lambda: 0))
        stack.enter_context(patch.object(torch.cuda, "is_current_stream_capturing", lambda: False))
        stack.enter_context(patch.object(torch.cuda, "current_stream", lambda device: None))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Dispatched(counts))
        stack.enter_context(_Named())
        yield counts


class _Dispatched(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        gpu = any(isinstance(leaf, PretendedTensor) for leaf in tree_leaves((args, kwargs)))
        if gpu or (device is not None and torch.device(device).type in ("cuda", "meta")):
            return _run(func, args, kwargs, self.counts)
        return func(*args, **kwargs)


class _Named(TorchFunctionMode):
    """device='cuda' becomes 'meta', which needs no driver; `_Dispatched` takes it for the GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def renamed(value: Any) -> Any:
            return torch.device("meta") if isinstance(value, torch.device) and value.type == "cuda" else value

        args = tuple(renamed(value) for value in args)
        kwargs = {name: renamed(value) for name, value in (kwargs or {}).items()}
        if func in (torch.tensor, torch.as_tensor) and str(kwargs.get("device")) == "meta":
            device = kwargs.pop("device")
            if isinstance(args[0], PretendedTensor):
                return args[0].to(kwargs.get("dtype", args[0].dtype))
            return func(*args, **kwargs).to(device)
        if func is Tensor.backward:
            with self:
                return _engine_run_backward(
                    args[:1],
                    (torch.ones_like(args[0]),),
                    False,
                    False,
                    (),
                    allow_unreachable=True,
                    accumulate_grad=True,
                )
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any], counts: Counter[str]) -> Any:
    leaves, form = tree_flatten((args, kwargs))
    name, device = func.overloadpacket.__name__, kwargs.get("device")
    gpu = [leaf for leaf in leaves if isinstance(leaf, PretendedTensor)]
    cpu = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() and not isinstance(leaf, PretendedTensor)]
    to_cpu, to_gpu = (
        device is not None and torch.device(device).type in types for types in (("cpu",), ("cuda", "meta"))
    )
    copy = name in ("_to_copy", "copy_")
    if gpu and cpu and not copy:
        raise RuntimeError(f"{name} got tensors of the GPU and of the CPU, {[tuple(tensor.shape) for tensor in cpu]}.")
    counts["launch"] += bool(gpu or to_gpu) and not getattr(func, "is_view", False) and name not in _LAUNCH_NOTHING
    if gpu and (name in _SIZED_BY_VALUES or (name == "repeat_interleave" and "output_size" not in kwargs)):
        counts[name] += 1
    elif gpu and name == "_local_scalar_dense":
        counts["item"] += 1
    elif gpu and name in _INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
        counts["mask as index"] += 1
    elif copy and gpu and (to_cpu or not isinstance(args[0], PretendedTensor)):
        counts["copy down"] += 1
    elif copy and ((to_gpu and not gpu) or (name == "copy_" and gpu and cpu)):
        counts["copy up" if kwargs.get("non_blocking") else "copy up, waited for"] += 1
    held, held_kwargs = tree_unflatten([getattr(leaf, "held", leaf) for leaf in leaves], form)
    if device is not None:
        held_kwargs["device"] = torch.device("cpu")
    output = func(*held, **held_kwargs)
    if name == "copy_":
        return args[0]
    if name == "_local_scalar_dense" or to_cpu or not (gpu or to_gpu):
        return output
    known = {id(tensor.held): tensor for tensor in gpu}
    output = tree_map(
        lambda leaf: known[id(leaf)] if id(leaf) in known else PretendedTensor(leaf) if type(leaf) is Tensor else leaf,
        output,
    )
    return return_and_correct_aliasing(func, args, kwargs, output) if gpu else output
