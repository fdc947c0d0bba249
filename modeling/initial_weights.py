"""The weights of a new detector, as the reference draws them.

Every tensor is filled through `transformers.initialization`, which leaves alone what a checkpoint has filled: so this
is also what `from_pretrained` gives to a head that does not fit the checkpoint.
Source: init_weights in mmdet/models/detectors/deformable_detr.py, mmdet/models/dense_heads/deformable_detr_head.py.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import initialization as init

from .attention import DeformableAttention, SelfAttention
from .backbone import ConvSame, Neck
from .feed_forward import FeedForward
from .first_stage import FirstStage
from .heads import BoxHead, ClassHead
from .int8_layers import Int8Layer


def initialize(module: nn.Module) -> None:
    """Draw a module's own weights; called for children before parents, so a parent overrides the general rule."""
    if any(isinstance(child, Int8Layer) for child in module.children()):
        return  # these come with a checkpoint alone
    if isinstance(module, nn.Linear):
        _linear(module)
    elif isinstance(module, nn.Conv2d | ConvSame):
        init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm | _BatchNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
        if isinstance(module, _BatchNorm):
            init.zeros_(module.get_buffer("running_mean"))
            init.ones_(module.get_buffer("running_var"))
            init.zeros_(module.get_buffer("num_batches_tracked"))
    elif isinstance(module, nn.Embedding):
        init.normal_(module.weight)
    elif isinstance(module, DeformableAttention):
        init.zeros_(module.sampling_offsets.weight)
        init.copy_(module.sampling_offsets.bias, module.initial_offsets())
        init.zeros_(module.attention_weights.weight)
        init.zeros_(module.attention_weights.bias)
        _xavier(module.value_proj, module.output_proj)
    elif isinstance(module, SelfAttention):
        # The reference draws the three as one matrix with a fan-out of 3 D, which makes its bound sqrt(2) smaller.
        _xavier(module.q_proj, module.k_proj, module.v_proj, gain=0.5**0.5)
        _xavier(module.out_proj)
    elif isinstance(module, FeedForward):
        init.xavier_uniform_(module.fc1.weight)
        init.xavier_uniform_(module.fc2.weight)
    elif isinstance(module, BoxHead):
        *_, last = (layer for layer in module if isinstance(layer, nn.Linear))
        init.zeros_(last.weight)
        init.copy_(last.bias, torch.tensor(module.initial_bias))
    elif isinstance(module, Neck):
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                init.xavier_uniform_(conv.weight)
    elif isinstance(module, FirstStage):
        init.xavier_uniform_(module.memory_proj.weight)
        init.xavier_uniform_(module.query_proj.weight)


def initialize_start(level_embed: nn.Parameter, reference_points: nn.Linear | None) -> None:
    """What belongs to the model itself: the levels' embedding and, without two stages, where queries start."""
    init.normal_(level_embed)
    if reference_points is not None:
        _xavier(reference_points)


def _linear(module: nn.Linear) -> None:
    """nn.Linear's own default; a class head's bias is its prior."""
    bound = module.in_features**-0.5
    init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        init.uniform_(module.bias, -bound, bound)
    if isinstance(module, ClassHead):
        init.constant_(module.bias, module.initial_bias)


def _xavier(*linears: nn.Linear, gain: float = 1.0) -> None:
    for linear in linears:
        init.xavier_uniform_(linear.weight, gain=gain)
        init.zeros_(linear.bias)
