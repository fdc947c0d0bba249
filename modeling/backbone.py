"""From pixels to a feature pyramid: a timm network with frozen batch norm, and the neck on top of it."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_utils import load_state_dict

from .folded_norm import fold_frozen_norms, folded_at_once
from .linear import convolution
from .plain_calls import plain_modules, plain_operations

if TYPE_CHECKING:
    from timm.models import FeatureListNet

STRIDES = [8, 16, 32]
WEIGHT_FILES = {".safetensors", ".pth", ".pt", ".bin"}


class Backbone(nn.Module):
    """The last three stages of a timm network, C3 C4 C5.

    With `dilation` the last one has dilated convolutions in place of its stride (DC5): strides 8, 16 and 16.

    Batch norm keeps its statistics and its weights whatever `train()` says, and the first stages take no gradient,
    as in MMDetection's `norm_eval`, `requires_grad=False` and `frozen_stages`.

    Raises:
        ValueError: when timm does not know the name, the network has no levels of stride 8, 16, 32, or its last stage
            cannot be dilated.
    """

    def __init__(self, name: str, frozen_stages: int, dilation: bool = False) -> None:
        super().__init__()
        self.name = name
        network = _create_dilated(name) if dilation else _create(name)
        self.body: nn.Module = network
        strides = [*STRIDES[:-1], STRIDES[-2]] if dilation else STRIDES
        if network.feature_info.reduction() != strides:
            raise ValueError(
                f"backbone={name!r} has feature levels of stride {network.feature_info.reduction()}; "
                f"the detector needs {strides}."
            )
        self.widths: list[int] = network.feature_info.channels()
        # Stage s has stride 2 ** (s + 1), the last one before it was dilated.
        self.stage_strides: dict[str, int] = {info["module"]: info["reduction"] for info in network.feature_info.info}
        self.stage_strides[next(reversed(self.stage_strides))] = STRIDES[-1]
        self.frozen_stages = frozen_stages
        self.has_depthwise = any(isinstance(conv, nn.Conv2d) and conv.groups > 1 for conv in self.body.modules())
        self._freeze()
        fold_frozen_norms(self.body)
        for conv in self.body.modules():
            if type(conv).__name__ == "Conv2dSame":
                conv.__class__ = ConvSame

    def _freeze(self) -> None:
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval().requires_grad_(False)
        # Parameters stand in the order of the data's way, so whatever comes before the first stage of a larger stride
        # is frozen: no list of names for each kind of network.
        deeper = [module for module, stride in self.stage_strides.items() if stride > 2 ** (self.frozen_stages + 1)]
        # timm flattens 'stages.0' to 'stages_0' in some networks.
        trained = tuple(f"{name}." for module in deeper for name in (module, module.replace(".", "_")))
        for name, parameter in self.body.named_parameters():
            if self.frozen_stages < 0 or name.startswith(trained):
                break
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        # Frozen again each time, since loading a checkpoint makes new parameters that all take gradients.
        self._freeze()
        return self

    def load_weights(self, weights: str | Path) -> None:
        """Load ImageNet weights: a timm name such as 'resnet50.tv_in1k' (downloaded), or a file of this network's.

        A file holds the network's own names, as timm and torchvision write them; what comes after the last stage (the
        classifier) is left out. It is opened without executing anything in it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds another network, or timm does not know the name.
        """
        if Path(weights).suffix not in WEIGHT_FILES:
            loaded = _create(str(weights), pretrained=True).state_dict()
        elif not Path(weights).is_file():
            raise FileNotFoundError(f"There is no file of backbone weights {weights}.")
        else:
            loaded = load_state_dict(weights)
        own = self.body.state_dict()
        # Some networks flatten 'stages.0' to 'stages_0' when they give features; files have the dots.
        weights_by_name = {name: loaded.get(name, loaded.get(_with_dots(name))) for name in own}
        wrong = [name for name, tensor in weights_by_name.items() if tensor is None or tensor.shape != own[name].shape]
        if wrong:
            raise ValueError(
                f"{weights} does not hold the weights of {self.name}: "
                f"{len(wrong)} of {len(own)} tensors are missing or of another shape, {wrong[0]} first."
            )
        self.body.load_state_dict(weights_by_name)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, height, width) -> three maps (B, widths[i], height / stride, width / stride)."""
        # Channels last: as the neck and the encoder want them, and the faster way for convolutions, CPU or GPU.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        # oneDNN has no fast bf16 backward of depthwise convolutions: 136 ms for one of tf_efficientnet_lite0 (1152
        # channels, 5x5 on 8x11, 2 images, 1 thread) where fp32 takes 10, and 1.7 s instead of 0.8 for a training step.
        slow = self.has_depthwise and pixel_values.device.type == "cpu" and torch.is_grad_enabled()
        at_once = pixel_values.device.type != "cpu" and plain_operations(pixel_values)
        with (
            torch.autocast("cpu", enabled=False) if slow else nullcontext(),
            folded_at_once(self.body) if at_once else nullcontext(),
        ):
            return self.body(pixel_values)


class ConvSame(nn.Module):
    """timm's Conv2dSame, which pads as the image's size asks. It is more than an nn.Conv2d, so it is none.

    Who replaces convolutions by their kind (optimum-quanto) would make one of it that does not pad: a detector on
    tf_efficientnet_lite0 in int8 then found 2 of 6 blood cells.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    extra_repr = nn.Conv2d.extra_repr

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        height, width = (same_padding(*size) for size in sizes)
        x = nn.functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Pixels of padding with which a convolution has ceil(size / stride) outputs, as TensorFlow's 'SAME'.

    In whole numbers, which cancel out from level to level: timm's own ceil of a quotient and max become expressions
    that take torch.export and torch.compile minutes.
    """
    reach = (kernel - 1) * dilation + 1
    if reach < stride:
        return max((-(-size // stride) - 1) * stride + reach - size, 0)
    return ((size + stride - 1) // stride - 1) * stride + reach - size


def _create(name: str, **kwargs: Any) -> "FeatureListNet":
    import timm  # takes longer to import than all of this package; only building a model needs it

    try:
        # timm says nn.Module; with features_only it is this, or another class that has `feature_info` too.
        network = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1), **kwargs)
        return cast("FeatureListNet", network)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise ValueError(f"backbone={name!r} is not a model that timm {timm.__version__} knows.") from error


def _create_dilated(name: str) -> "FeatureListNet":
    try:
        return _create(name, output_stride=STRIDES[-2])
    except (TypeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"backbone={name!r} has no form with a dilated last stage (dilation=True).") from error


def _with_dots(name: str) -> str:
    """'stages_1.blocks.0' -> 'stages.1.blocks.0'"""
    first, _, rest = name.partition(".")
    return f"{first.replace('_', '.')}.{rest}" if rest else name


class NeckLevel(nn.Module):
    """A convolution and a group norm: one level's way to the common width.

    A bias before a norm over several channels cannot be folded into anything: it shifts each channel by another amount.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = nn.GroupNorm(32, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        plain = type(conv) is nn.Conv2d and plain_modules(conv)
        y = convolution(x, conv, conv.weight, conv.bias) if plain else conv(x)
        # PyTorch's group norm of a channels-last map loses half a digit (2e-5 instead of 7e-6 in the encoder's output).
        return self.norm(y.contiguous())


class Neck(nn.Module):
    """`levels` maps of `width` channels: 1x1 on the backbone's last ones, then 3x3 with stride 2 on the coarsest.

    Source: ChannelMapper in mmdet/models/necks/channel_mapper.py.
    """

    def __init__(self, in_channels: Sequence[int], width: int, levels: int, bias: bool = False) -> None:
        super().__init__()
        lateral = list(in_channels)[-levels:]
        self.levels = nn.ModuleList([NeckLevel(channels, width, kernel=1, stride=1, bias=bias) for channels in lateral])
        for extra in range(levels - len(lateral)):
            self.levels.append(NeckLevel(width if extra else lateral[-1], width, kernel=3, stride=2, bias=bias))
        self.lateral = len(lateral)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the backbone -> `levels` maps (B, width, h, w)."""
        features = features[-self.lateral :]
        outputs = [level(x) for level, x in zip(self.levels, features, strict=False)]
        x = features[-1]
        for level in self.levels[self.lateral :]:
            x = level(x)
            outputs.append(x)
        return outputs
