"""transformers' own models with deformable attention, on this package's operator.

Their attention is one class, or one function, of which each model's file has a copy: `grid_sample`, level by level,
whose samples all go through memory. transformers' own way to replace a class (`register_patch_mapping`) reaches only
models that are loaded afterwards, so here the class's `forward` is replaced, or the module's function.
B batch, Q queries, S tokens, H heads, L levels, P points, C channels a head.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from importlib import import_module
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deformable_detr_refine.modeling.ops import deformable_attention

# The `..._v2` of rt_detr_v2, d_fine and deimv2, with a number of points for each level, is left alone: their decoders
# have as few queries as rt_detr's.
MODELS = (
    "deformable_detr",
    "grounding_dino",
    "lw_detr",
    "mask2former",
    "mm_grounding_dino",
    "omdet_turbo",
    "oneformer",
    "pp_doclayout_v2",
    "pp_doclayout_v3",
    "pp_doclayout_v4",
    "rf_detr",
    "rt_detr",
)


class _Replaced(NamedTuple):
    owner: Any
    name: str
    own: Callable[..., Tensor]
    ours: Callable[..., Tensor]


_lock = Lock()
_replaced: list[_Replaced] = []
_users = 0
# Read in every call, so that what torch.compile made meanwhile is compiled again when it is switched off.
_on = False


def accelerate_transformers() -> ExitStack:
    """Run deformable attention in transformers' own models (`MODELS`) on this package's operator.

    From here on, in the whole process, for models that exist and for those that are built or loaded later; outputs and
    gradients stay the same but for rounding. What is exported or traced meanwhile has transformers' own operations, so
    that it runs where this package is not installed. A model with `use_kernels=True` keeps its kernels, and one that
    was compiled before its graph.

    Returns:
        What switches it off: its `close()`, or the end of a `with` block. Blocks may be nested; the last switches off.

    Example:
        >>> with accelerate_transformers():
        ...     pass  # model(**inputs) of any of these models
    """
    global _users, _on
    found = _deformable_attention_of_transformers()
    with _lock:
        if not _users:
            for owner, name, wrapped in found:
                own = vars(owner)[name]
                _replaced.append(_Replaced(owner, name, own, wrapped(own)))
                setattr(owner, name, _replaced[-1].ours)
        _users, _on = _users + 1, True
    active = ExitStack()
    active.callback(_leave)
    return active


def _leave() -> None:
    global _users, _on
    with _lock:
        _users -= 1
        _on = _users > 0
        if not _on:
            for owner, name, own, ours in _replaced:
                if vars(owner)[name] is ours:  # else another has replaced it since, and ours hands on to transformers'
                    setattr(owner, name, own)
            _replaced.clear()


def _deformable_attention_of_transformers() -> list[tuple[Any, str, Callable[[Callable[..., Tensor]], Any]]]:
    """Where each model of this release of transformers has it: owner, name, and what makes ours of it."""
    found = []
    for name in MODELS:
        try:
            module = import_module(f"transformers.models.{name}.modeling_{name}")
        except ImportError:  # this release does not have it, or it needs what is not installed
            continue
        if layer := getattr(module, "MultiScaleDeformableAttention", None):
            found.append((layer, "forward", _method))
        elif hasattr(module, "multi_scale_deformable_attention"):
            found.append((module, "multi_scale_deformable_attention", _function))
    return found


def _method(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(own)
    def forward(
        self: nn.Module,
        value: Tensor,  # (B, S, H, C)
        value_spatial_shapes: Tensor,  # (L, 2)
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,  # (L,)
        sampling_locations: Tensor,  # (B, Q, H, L, P, 2)
        attention_weights: Tensor,  # (B, Q, H, L, P)
        im2col_step: int,
    ) -> Tensor:
        if _stands_aside(value):
            rest = (level_start_index, sampling_locations, attention_weights, im2col_step)
            return own(self, value, value_spatial_shapes, value_spatial_shapes_list, *rest)
        return deformable_attention(value, value_spatial_shapes_list, sampling_locations, attention_weights)

    return forward


def _function(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(own)
    def multi_scale_deformable_attention(
        value: Tensor,  # (B, S, H, C)
        value_spatial_shapes: Tensor | list[tuple[int, int]],
        sampling_locations: Tensor,  # (B, Q, H, L, P, 2)
        attention_weights: Tensor,  # (B, Q, H, L, P)
    ) -> Tensor:
        if _stands_aside(value) or isinstance(value_spatial_shapes, Tensor):
            return own(value, value_spatial_shapes, sampling_locations, attention_weights)
        return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights)

    return multi_scale_deformable_attention


def _stands_aside(value: Tensor) -> bool:
    return (
        not _on
        or value.device.type not in ("cpu", "cuda", "xpu")  # elsewhere the operator is grid_sample as well
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] (documented, but not in __all__)
    )


__all__ = ["MODELS", "accelerate_transformers"]
