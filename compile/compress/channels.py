"""Finds the channels inside the blocks of a network, and removes some of them.

Such channels are made by one layer, may pass a depthwise layer, activations and gates, and are read
by another layer: the expanded tensor of an inverted residual, or what is between two pointwise
layers of MobileNetV1. To remove one is to remove a row of each of its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.float_graph import FloatGraph, attribute
from mobilenet_tvm.compile.frontend.graph import reads
from mobilenet_tvm.compile.models.counts import Shape, static_shapes

Array = np.ndarray[Any, Any]

_SATURATING = frozenset({"Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Swish", "Tanh"})
_RECTIFIERS = frozenset({"Elu", "Gelu", "LeakyRelu", "Mish", "PRelu", "Relu", "Softplus"})
_ACTIVATIONS = _SATURATING | _RECTIFIERS
_BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub"})
_MEANS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})
_POOLS = _MEANS | {"MaxPool"}


@dataclass(frozen=True)
class Parameter:
    """A constant with an entry per channel along an axis: an input of a node."""

    node: onnx.NodeProto
    place: int
    axis: int


@dataclass(eq=False)
class Channels:
    """Channels of the values between layers, which can only be removed from all of them.

    Parameters
    ----------
    count : int
        How many there are.
    makers : list of onnx.NodeProto
        The layers that compute them: the expansion first, then those of gates.
    readers : list of onnx.NodeProto
        The layers that compute other channels of them.
    pooled_readers : list of onnx.NodeProto
        Those that do so from their means, such as the first layer of a gate.
    depthwise : list of onnx.NodeProto
        The depthwise layers in between.
    norms : list of onnx.NodeProto
        The batch normalisations in between, those of gates left out.
    reshapes : list of tuple
        The Reshapes in between, and the axis of the channels after each.
    parameters : list of Parameter
        All that has an entry per channel.
    activated : bool
        Whether there is an activation in between.
    fixed : bool
        Whether they have to stay.
    """

    count: int
    makers: list[onnx.NodeProto]
    readers: list[onnx.NodeProto] = field(default_factory=list)
    pooled_readers: list[onnx.NodeProto] = field(default_factory=list)
    depthwise: list[onnx.NodeProto] = field(default_factory=list)
    norms: list[onnx.NodeProto] = field(default_factory=list)
    reshapes: list[tuple[onnx.NodeProto, int]] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    activated: bool = False
    fixed: bool = False

    @property
    def name(self) -> str:
        """The name of the layer that makes them."""
        return str(self.makers[0].name or self.makers[0].output[0])

    def absorb(self, other: Channels) -> None:
        """Take over what belongs to the channels of gates, which go along with these."""
        for name in ("makers", "readers", "pooled_readers", "reshapes", "parameters"):
            getattr(self, name).extend(getattr(other, name))
        self.fixed |= other.fixed or bool(other.depthwise)


def find_channels(graph: FloatGraph) -> list[Channels]:
    """Return the channels that can be removed, in the network's order.

    Those are left out that join a residual or leave the network, that the classifier reads after
    the pooling, that are between the layers of a gate, and those of a bottleneck, which is a value
    without an activation.

    Parameters
    ----------
    graph : FloatGraph
        A network with static shapes.
    """
    walk = _Walk(graph)
    for node in graph.nodes:
        walk.visit(node)
    return [channels for channels in walk.all_channels() if _removable(channels, walk.pooled)]


def remove(graph: FloatGraph, channels: Channels, kept: Array) -> None:
    """Remove all channels but some.

    Parameters
    ----------
    graph : FloatGraph
        The network that `find_channels` was called with.
    channels : Channels
        Some of it.
    kept : numpy.ndarray
        The places of the channels that stay, in rising order.
    """
    for parameter in channels.parameters:
        name = graph.own(parameter.node, parameter.place)
        graph.arrays[name] = graph.arrays[name].take(kept, parameter.axis)
    for node in channels.depthwise:
        next(a for a in node.attribute if a.name == "group").i = len(kept)
    for node, axis in channels.reshapes:
        name = graph.own(node, 1)
        shape = graph.arrays[name].copy()
        if shape[axis] == channels.count:
            shape[axis] = len(kept)
        graph.arrays[name] = shape
    channels.count = len(kept)


def _removable(channels: Channels, pooled: set[str]) -> bool:
    return (
        channels.activated
        and not channels.fixed
        and channels.makers[0].input[0] not in pooled
        and any(node.op_type == "Conv" for node in channels.readers)
    )


#: The channels of a value, and the axis along which they are.
_Place = tuple[Channels, int]


class _Walk:
    """Follows channels from node to node, and the axis of each value along which they are."""

    def __init__(self, graph: FloatGraph) -> None:
        self._graph = graph
        self._shapes = static_shapes(graph.model())
        self._at: dict[str, _Place] = {}
        #: Values of which each channel has one number per picture.
        self.pooled: set[str] = set()

    def all_channels(self) -> list[Channels]:
        """Return the channels of all values, in the network's order."""
        return list(dict.fromkeys(channels for channels, _ in self._at.values()))

    def visit(self, node: onnx.NodeProto) -> None:
        """Take note of what a node does with channels."""
        values = [name for name in reads(node) if name not in self._graph.arrays]
        place = None
        if all(all(self._shapes.get(name, (0,))) for name in (*values, *node.output)):
            if self._is_mean(node) or (values and self.pooled.issuperset(values)):
                self.pooled.update(node.output)
            if len(node.output) == 1:
                place = self._follow(node, values)
        if place is None:
            for name in values:
                if name in self._at:
                    self._at[name][0].fixed = True
            return
        channels, axis = place
        channels.activated |= node.op_type in _ACTIVATIONS
        channels.fixed |= self._graph.is_output(node.output[0])
        self._at[node.output[0]] = channels, axis

    def _follow(self, node: onnx.NodeProto, values: list[str]) -> _Place | None:
        """Return where a node's output has channels; None if those of its inputs must stay."""
        place = self._at.get(values[0]) if values else None
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            return self._layer(node, place) if len(values) == 1 else None
        if place is None:
            return None
        if node.op_type in _BINARY:
            return self._binary(node, values)
        if len(values) > 1:
            return None
        channels, axis = place
        match node.op_type:
            case "BatchNormalization" if axis == 1 and self._known(node, 1, 2, 3, 4):
                channels.norms.append(node)
                channels.parameters += [Parameter(node, each, 0) for each in range(1, 5)]
                return place
            case "Transpose" if permutation := attribute(node, "perm", None):
                return channels, permutation.index(axis)
            case "Pad" if self._known(node, 1):
                pads = self._graph.arrays[node.input[1]]
                rank = len(self._shapes[values[0]])
                return (
                    place if not pads[[axis, axis - rank]].any() and len(pads) == 2 * rank else None
                )
            case "ReduceMean":
                return self._mean(node, place)
            case "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze":
                return self._reshaped(node, place)
            case operator if operator in _POOLS and axis != 1:
                return None
            case operator if operator in _ACTIVATIONS | _POOLS | {"Dropout", "Identity"}:
                return place
        return None

    def _layer(self, node: onnx.NodeProto, place: _Place | None) -> _Place | None:
        """Return the outputs of a layer with constant weights, which reads some channels."""
        rank = len(self._shapes[node.input[0]])
        read_axis = rank - 1 if node.op_type == "MatMul" else 1
        if not self._known(node, 1) or (place and place[1] != read_axis):
            return None
        weight = self._graph.arrays[node.input[1]]
        if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
            if place is None or weight.shape[:2] != (place[0].count, 1):
                return None
            if attribute(node, "group", 1) != place[0].count:
                return None
            place[0].depthwise.append(node)
            return place if self._take(place[0], node, 0) else None
        turned = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not attribute(node, "transB", 0)
        )
        if turned and (weight.ndim != 2 or attribute(node, "transA", 0)):
            return None
        outputs, inputs = (1, 0) if turned else (0, 1)
        if place is not None:
            place[0].parameters.append(Parameter(node, 1, inputs))
            pooled = node.input[0] in self.pooled
            (place[0].pooled_readers if pooled else place[0].readers).append(node)
        made = Channels(weight.shape[outputs], [node])
        made.fixed = not self._take(made, node, outputs)
        return made, read_axis

    def _take(self, channels: Channels, node: onnx.NodeProto, axis: int) -> bool:
        """Take note of a layer's weights, and its bias; return False if that has another form."""
        channels.parameters.append(Parameter(node, 1, axis))
        if len(node.input) < 3 or not node.input[2]:
            return True
        if not self._known(node, 2) or self._graph.arrays[node.input[2]].shape != (channels.count,):
            return False
        channels.parameters.append(Parameter(node, 2, 0))
        return True

    def _binary(self, node: onnx.NodeProto, values: list[str]) -> _Place | None:
        """Return the channels of a sum or product: with a constant, with themselves, with gates."""
        place = self._at[values[0]]
        channels, axis = place
        if len(values) == 1:
            return place if self._constant(node, values[0], channels, axis) else None
        other, other_axis = self._at.get(values[1], (None, axis))
        ranks = {len(self._shapes[value]) for value in values}
        if other is channels and len(ranks) == 1 and axis == other_axis:
            return place
        gated = node.op_type == "Mul" and len(self.pooled.intersection(values)) == 1
        if other is None or other is channels or not gated or len(ranks) > 1:
            return None
        if (other.count, other_axis) != (channels.count, axis):
            return None
        if values[0] in self.pooled:
            channels, other = other, channels
        channels.absorb(other)
        for name, (each, along) in self._at.items():
            if each is other:
                self._at[name] = channels, along
        return channels, axis

    def _constant(self, node: onnx.NodeProto, value: str, channels: Channels, axis: int) -> bool:
        """Take note of the constant operand; return False if it changes the value's shape."""
        number = next(n for n, name in enumerate(node.input) if name in self._graph.arrays)
        constant = self._graph.arrays[node.input[number]]
        if self._shapes[value] != self._shapes[node.output[0]]:
            return False
        along = axis - len(self._shapes[value]) + constant.ndim
        if along >= 0 and constant.shape[along] > 1:
            channels.parameters.append(Parameter(node, number, along))
        return True

    def _is_mean(self, node: onnx.NodeProto) -> bool:
        """Return whether a node computes one number per picture of each channel."""
        return node.op_type in _MEANS and (
            sum(extent > 1 for extent in self._shapes[node.output[0]][1:]) <= 1
        )

    def _mean(self, node: onnx.NodeProto, place: _Place) -> _Place | None:
        """Return where the mean over all axes but the first and that of the channels has them."""
        channels, axis = place
        before, after = self._shapes[node.input[0]], self._shapes[node.output[0]]
        if len(before) == len(after):
            return place if _alone(after, axis) and after[axis] == channels.count else None
        return (channels, 1) if after == (before[0], channels.count) else None

    def _reshaped(self, node: onnx.NodeProto, place: _Place) -> _Place | None:
        """Return where channels of one number each are after axes of extent 1 come or go."""
        channels, axis = place
        after = self._shapes[node.output[0]]
        if not _alone(self._shapes[node.input[0]], axis) or channels.count == 1:
            return None
        new_axis = next((n for n, extent in enumerate(after) if n and extent == channels.count), 0)
        if not new_axis or not _alone(after, new_axis):
            return None
        if node.op_type == "Reshape":
            if not self._known(node, 1):
                return None
            channels.reshapes.append((node, new_axis))
        return channels, new_axis

    def _known(self, node: onnx.NodeProto, *places: int) -> bool:
        """Return whether some inputs of a node are there, and constant."""
        return len(node.input) > max(places) and all(
            node.input[place] in self._graph.arrays for place in places
        )


def _alone(shape: Shape, axis: int) -> bool:
    """Return whether all axes but the first and another have the extent 1."""
    return all(extent == 1 for number, extent in enumerate(shape) if number not in (0, axis))
