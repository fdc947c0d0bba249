"""Which layers of a detector are in int8: the backbone's convolutions and the large products of encoder and decoder.

What moves boxes most, or chooses them, stays in float: sampling offsets and attention weights, the first stage, the
heads; and the attention among the queries, which are few.
"""

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .attention import DeformableAttention
from .backbone import ConvSame
from .feed_forward import FeedForward
from .folded_norm import ConvWithNorm, Tracer
from .int8_layers import Geometry, Int8Conv, Int8Layer, Int8Linear, Int8MaxPool, check_place

if TYPE_CHECKING:
    from .modeling_deformable_detr_refine import DeformableDetrRefineModel

_ACTIVATIONS: dict[type, str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}
_SUMS = {operator.add, operator.iadd, torch.add}


class ConvUnit(nn.Module):
    """A convolution with what an Int8Conv does at once: a norm's factor and summand, the sum with another map, a ReLU.

    In float: what is observed before a detector is quantised.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, activation: str, adds: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        padding = conv.padding
        assert not isinstance(padding, str), "left out by _is_plain"
        self.geometry = Geometry(list(conv.stride), list(padding), list(conv.dilation), conv.groups)
        self.activation, self.adds, self.hands_on_uint8 = activation, adds, False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias, *self.geometry)
        y = y if other is None else y + other
        return {"none": y, "relu": y.relu(), "relu6": y.clamp(0, 6)}[self.activation]


def in_units(model: "DeformableDetrRefineModel") -> None:
    """Makes units of the convolutions of backbone and neck, in place; the model stays as it is otherwise."""
    model.backbone.body = _in_units(model.backbone.body)
    for level in model.neck.levels:
        conv = cast("nn.Conv2d", level.get_submodule("conv"))
        level.set_submodule("conv", ConvUnit(conv, conv.weight, conv.bias, "none", adds=False))


def layers_for_int8(model: "DeformableDetrRefineModel") -> Iterator[tuple[str, ConvUnit | nn.Linear, Int8Layer]]:
    """Name, layer, and an empty int8 layer of its form, of each that is to be in int8, of a model in units."""
    for name, module in list(model.named_modules()):
        if isinstance(module, ConvUnit):
            form = module.activation, module.hands_on_uint8, module.adds
            yield name, module, Int8Conv(module.weight.shape, module.geometry, *form)
        elif isinstance(module, FeedForward):
            yield f"{name}.fc1", module.fc1, Int8Linear(module.fc1.weight.shape, "relu", True)
            yield f"{name}.fc2", module.fc2, Int8Linear(module.fc2.weight.shape)
        elif isinstance(module, DeformableAttention):
            yield f"{name}.value_proj", module.value_proj, Int8Linear(module.value_proj.weight.shape)
            yield f"{name}.output_proj", module.output_proj, Int8Linear(module.output_proj.weight.shape)


def to_int8_form(model: "DeformableDetrRefineModel") -> None:
    """Replaces these layers by empty ones in int8, in place, for weights that are loaded next.

    Raises:
        ValueError: the model is not in float32.
    """
    check_place(torch.device("cpu"), model.level_embed.dtype)
    in_units(model)
    for name, _, layer in layers_for_int8(model):
        model.set_submodule(name, layer)


def _in_units(network: nn.Module) -> nn.Module:
    """The network as a graph with units; the network itself if torch.fx cannot trace it."""
    network.eval()
    try:
        graph = _Tracer().trace(network)
    except Exception:  # whatever a network's Python does with a proxy
        return network
    modules = dict(network.named_modules())

    def module_of(node: fx.Node | None) -> nn.Module | None:
        return modules.get(str(node.target)) if node is not None and node.op == "call_module" else None

    for node in graph.nodes:
        if isinstance(module_of(node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    order = {node: number for number, node in enumerate(graph.nodes)}
    targets = [node.target for node in graph.nodes]
    units: dict[fx.Node, ConvUnit] = {}
    for first in list(graph.nodes):
        conv = module_of(first)
        if not isinstance(conv, nn.Conv2d) or not _is_plain(conv) or targets.count(first.target) > 1:
            continue
        chain, weight, bias, activation, rest, other = [first], conv.weight, conv.bias, "none", None, None
        norm = module_of(_only_user(first))
        if isinstance(conv, ConvWithNorm) and norm is not None and norm is conv.norm:
            chain.append(_only_user(first))
            weight, bias = conv.folded()
            if not isinstance(own := getattr(norm, "act", nn.Identity()), nn.Identity):
                activation = _ACTIVATIONS.get(type(own), "none")
                rest = None if type(own) in _ACTIVATIONS else f"{chain[-1].target}.act"
        if activation == "none" and rest is None:
            other = _may_add(_only_user(chain[-1]), chain[-1], first, order)
            if other is not None:
                chain.append(_only_user(chain[-1]))
            if type(module_of(_only_user(chain[-1]))) in _ACTIVATIONS:
                chain.append(_only_user(chain[-1]))
                activation = _ACTIVATIONS[type(module_of(chain[-1]))]
        with graph.inserting_after(chain[-1]):
            unit = last = graph.call_module(str(first.target), (first.args[0], *([other] if other else [])))
        if rest is not None:
            with graph.inserting_after(unit):
                last = graph.call_module(rest, (unit,))
        chain[-1].replace_all_uses_with(last)
        order |= {unit: order[chain[-1]], last: order[chain[-1]]}
        for node in reversed(chain):
            graph.erase_node(node)
        units[unit] = ConvUnit(conv, weight, bias, activation, other is not None)

    def takes_uint8(node: fx.Node) -> bool:
        # What goes out goes to the neck, whose convolutions are units too.
        pooled = isinstance(module_of(node), nn.MaxPool2d) and all(map(takes_uint8, node.users))
        return node in units or node.op == "output" or pooled

    for node, unit in units.items():
        unit.hands_on_uint8 = all(map(takes_uint8, node.users))
    rewritten = fx.GraphModule(network, graph)
    for node, unit in units.items():
        rewritten.set_submodule(str(node.target), unit)
    for name, pool in list(rewritten.named_modules()):
        if type(pool) is nn.MaxPool2d:
            sizes = pool.kernel_size, pool.stride, pool.padding, pool.dilation, False, pool.ceil_mode
            rewritten.set_submodule(name, Int8MaxPool(*sizes))
    return rewritten


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _may_add(sum_: fx.Node | None, node: fx.Node, first: fx.Node, order: dict[fx.Node, int]) -> fx.Node | None:
    """What is added to a node, if nobody needs it afterwards: the sum takes its memory."""
    if sum_ is None or sum_.op != "call_function" or sum_.target not in _SUMS or len(sum_.args) != 2:
        return None
    others = [other for other in sum_.args if isinstance(other, fx.Node) and other is not node]
    if len(others) != 1 or others[0] is first.args[0] or any(order[user] > order[sum_] for user in others[0].users):
        return None
    return others[0]


def _is_plain(conv: nn.Conv2d) -> bool:
    return (
        type(conv) in (nn.Conv2d, ConvWithNorm) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    )


class _Tracer(Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, ConvSame) or super().is_leaf_module(module, name)
