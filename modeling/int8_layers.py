"""Convolutions and linear layers in int8 on a CPU, of a detector that was quantised after its training.

A number x stands as the uint8 round(x / scale) + zero_point, with a scale and a zero point for each tensor that were
found on images beforehand. Weights are int8 with a scale for each output channel. oneDNN multiplies, adds a residual
and cuts at zero in one pass, and between such layers goes uint8.

Source: section 2 of Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference (arXiv:1712.05877).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .fused_passes import fused_quantize

LARGEST_WEIGHT = 127


class Quantization(NamedTuple):
    """How the numbers of a tensor stand as uint8."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "Quantization":
        """For numbers from low to high; 0 is among them, and exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-9) / 255
        return cls(scale, round(-low / scale))

    def quantize(self, x: Tensor) -> Tensor:
        """Floats -> uint8, in the same order in memory; uint8 stays as it is."""
        return x if x.dtype == torch.uint8 else fused_quantize(x, self.scale, self.zero_point)


class _Ready(NamedTuple):
    """What a layer's calls need, in the form that oneDNN takes."""

    weight: Tensor
    weight_zero_points: Tensor
    input: Quantization
    output: Quantization
    other: Quantization
    dtype: torch.dtype


class Int8Layer(nn.Module):
    """What both kinds of layer share.

    Attributes:
        weight: (out, in, ...) int8; weight_scale and bias: (out,).
        input, output, other: (2,) scale and zero point of what comes in, of what goes out (None: it goes out as
            float32) and of what is added (None: nothing is).
        activation: 'none', 'relu' or 'relu6'.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    input: Tensor
    output: Tensor | None
    other: Tensor | None

    def __init__(
        self, shape: Sequence[int], activation: str = "none", hands_on_uint8: bool = False, adds: bool = False
    ) -> None:
        super().__init__()
        self.activation = activation
        self._ready: _Ready | None = None
        self.register_buffer("weight", torch.zeros(*shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(shape[0], dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(shape[0], dtype=torch.float32))
        for name, there in (("input", True), ("output", hands_on_uint8), ("other", adds)):
            self.register_buffer(name, torch.ones(2, dtype=torch.float32) if there else None)

    @torch.no_grad()
    def fill(self, weight: Tensor, bias: Tensor | None, **ranges: Quantization) -> None:
        """Takes the weights of a layer in float, and how `input`, `output` and `other` stand as uint8."""
        rows = weight.float().flatten(1)
        self.weight_scale.copy_(rows.abs().amax(1).clamp(min=1e-9) / LARGEST_WEIGHT)
        self.weight.copy_((rows / self.weight_scale.unsqueeze(1)).round().view_as(weight))
        self.bias.copy_(torch.zeros_like(self.bias) if bias is None else bias)
        for name, quantization in ranges.items():
            self.get_buffer(name).copy_(torch.tensor(quantization))
        self._ready = None

    def _apply(self, *args: Any, **kwargs: Any) -> "Int8Layer":
        self._ready = None
        moved = super()._apply(*args, **kwargs)
        check_place(self.weight.device, self.weight_scale.dtype)
        return moved

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}  # oneDNN's tensors cannot be copied

    def ready(self) -> _Ready:
        """What calls need, made by the first one.

        Raises:
            ValueError: this is no place where the layer can run, or a training.
        """
        if self.training and torch.is_grad_enabled():
            raise ValueError("A detector in int8 cannot be trained: train the one that it was made from.")
        if self._ready is None:
            if reason := why_not_int8():
                raise ValueError(f"This detector is in int8 and cannot run here: {reason}.")
            check_place(self.weight.device, self.weight_scale.dtype)
            output = Quantization(1.0, 0) if self.output is None else _read(self.output)
            other = output if self.other is None else _read(self.other)
            weight, zeros = self._packed(), torch.zeros(len(self.bias), dtype=torch.int32)
            dtype = torch.float32 if self.output is None else torch.uint8
            self._ready = _Ready(weight, zeros, _read(self.input), output, other, dtype)
        return self._ready

    def _packed(self) -> Tensor:
        return torch.ops.onednn.qlinear_prepack(self.weight.flatten(1), None)

    def _call(self, operation: Any, x: Tensor, other: Tensor | None, geometry: Sequence[Any] = ()) -> Tensor:
        """The operation on x, plus `other`, whose memory the result takes when it is uint8; then the activation."""
        ready = self.ready()
        taken = ready.input.quantize(x), *ready.input, ready.weight, self.weight_scale, ready.weight_zero_points
        given = *geometry, *ready.output, ready.dtype
        # What cuts at 6 has nothing above it in uint8.
        cut = ("none" if self.activation == "none" else "relu"), [], ""
        if other is None:
            result = operation(*taken, self.bias, *given, *cut)
        else:
            form = ready.other if ready.dtype == torch.uint8 else ready.output
            if ready.dtype == torch.uint8:
                other = form.quantize(other)
            elif other.dtype == torch.uint8:
                other = (other.float() - ready.other.zero_point) * ready.other.scale
            result = operation.binary(*taken, other, self.bias, *given, *form, "sum", 1.0, *cut)
        return result.clamp_(max=6) if self.activation == "relu6" and ready.dtype == torch.float32 else result


class Int8Linear(Int8Layer):
    """(..., in) floats or uint8 -> (..., out), uint8 if there is an `output`."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return self._call(torch.ops.onednn.qlinear_pointwise, rows, None).view(*x.shape[:-1], -1)


class Int8Conv(Int8Layer):
    """(B, in, h, w) floats or uint8 -> (B, out, h', w'), uint8 if there is an `output`; channels last."""

    def __init__(self, shape: Sequence[int], geometry: "Geometry", *args: Any) -> None:
        super().__init__(shape, *args)
        self.geometry = geometry
        # Of these oneDNN finds its own form of weights only for some sizes of maps, and makes it anew in each call
        # otherwise (39 ms for 0.6 in the last stage of an R-50 at 480x640); as products of tokens they have one.
        self.is_linear = tuple(shape[2:]) == (1, 1) and geometry.padding == [0, 0] and geometry.groups == 1

    def _packed(self) -> Tensor:
        if self.is_linear:
            return super()._packed()
        given = self.weight, self.weight_scale, *_read(self.input), *self.geometry, None
        return torch.ops.onednn.qconv_prepack(*given)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if not self.is_linear:
            x = x.contiguous(memory_format=torch.channels_last)
            other = other if other is None else other.contiguous(memory_format=torch.channels_last)
            return self._call(torch.ops.onednn.qconv2d_pointwise, x, other, self.geometry)
        down, right = self.geometry.stride
        x = x.permute(0, 2, 3, 1)[:, ::down, ::right].contiguous()  # (B, h', w', in)
        if other is not None:
            other = other.permute(0, 2, 3, 1).flatten(0, 2)
        rows = self._call(torch.ops.onednn.qlinear_pointwise, x.flatten(0, 2), other)
        return rows.view(*x.shape[:3], -1).permute(0, 3, 1, 2)


class Geometry(NamedTuple):
    """How a convolution's kernel lies on the map, downwards and to the right."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class Int8MaxPool(nn.MaxPool2d):
    """Max pooling of floats or of uint8, which PyTorch has under another name."""

    def forward(self, input: Tensor) -> Any:
        if input.dtype != torch.uint8:
            return super().forward(input)
        sizes = (_pair(size) for size in (self.kernel_size, self.stride, self.padding, self.dilation))
        return torch.ops.quantized.max_pool2d(input, *sizes, self.ceil_mode)


def check_place(place: torch.device, dtype: torch.dtype) -> None:
    """Whether a detector in int8 may stand there, with the rest of it in that type.

    Raises:
        ValueError: it may not.
    """
    if place.type not in ("cpu", "meta") or dtype != torch.float32:
        raise ValueError(
            f"A detector in int8 runs on a CPU with the rest of it in float32, not on {place} in {dtype}: load it "
            "again and leave it there."
        )


def why_not_int8() -> str | None:
    """What this machine or its PyTorch lacks for int8, or None."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return f"PyTorch {torch.__version__} was built without oneDNN's products in int8"
    # Without it oneDNN adds two products in 16 bits, which are too few.
    if not torch.cpu._is_vnni_supported():
        return "int8 needs a processor with AVX-512 VNNI"
    return None


def _read(quantization: Tensor) -> Quantization:
    scale, zero_point = quantization.tolist()
    return Quantization(scale, int(zero_point))


def _pair(size: int | Sequence[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)
