"""Cross-layer equalisation: channels of neighbouring layers get weights of similar ranges.

Nagel, van Baalen, Blankevoort and Welling 2019, arXiv 1906.04721, section 4.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from mobilenet_tvm.compile.compress.float_graph import FloatGraph, attribute

Array = np.ndarray[Any, Any]

#: Sweeps over the network. Ranges of MobileNetV2 change by less than 1 % after the fifth.
_SWEEPS = 20


def equalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Scale channels between layers so that a channel has the same range in both.

    A convolution, an activation that commutes with positive factors, and another convolution that
    alone reads it compute the same with a channel of the first divided by a factor, and that of the
    second multiplied. As in the paper, a ReLU6 between two such layers becomes a ReLU, since its
    bound would be another one in each channel; so the network changes where values were above 6.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model whose batch normalisations are folded; it is not changed.
    """
    graph = FloatGraph(model)
    graph.own_constants()
    pairs = list(_pairs(graph))
    for first, activation, _ in pairs:
        if activation is not None and activation.op_type == "Clip":
            relu = helper.make_node("Relu", [first.output[0]], activation.output, activation.name)
            graph.nodes[graph.nodes.index(activation)] = relu
    for _ in range(_SWEEPS):
        for first, _, second in pairs:
            _equalize_pair(graph, first, second)
    return graph.model()


def _pairs(
    graph: FloatGraph,
) -> list[tuple[onnx.NodeProto, onnx.NodeProto | None, onnx.NodeProto]]:
    """Return each two convolutions that are joined by channels, and the activation between."""
    pairs = []
    for first in graph.layers():
        if first.op_type != "Conv":
            continue
        activation = None
        second = graph.only_reader(first.output[0])
        if second is not None and _is_relu(graph, second):
            activation, second = second, graph.only_reader(second.output[0])
        if second is None or second.op_type != "Conv" or second.input[1] not in graph.arrays:
            continue
        channels = graph.arrays[first.input[1]].shape[0]
        weight = graph.arrays[second.input[1]]
        group = attribute(second, "group", 1)
        if group == 1 or (group == channels and weight.shape[:2] == (channels, 1)):
            pairs.append((first, activation, second))
    return pairs


def _is_relu(graph: FloatGraph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Clip":
        return bool(node.op_type == "Relu")
    bounds: list[float] = [graph.arrays[name].item() for name in node.input[1:] if name in graph.arrays]
    # A narrower Clip than ReLU6 cuts off too much for its bound to be left out.
    return len(bounds) == 2 and bounds[0] == 0.0 and bounds[1] >= 6.0


def _equalize_pair(graph: FloatGraph, first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    left, right = graph.arrays[first.input[1]], graph.arrays[second.input[1]]
    depthwise = attribute(second, "group", 1) > 1
    before = np.abs(left).reshape(left.shape[0], -1).max(1)
    after = np.abs(right if depthwise else right.swapaxes(0, 1))
    after = after.reshape(after.shape[0], -1).max(1)
    known = (before > 0) & (after > 0)
    factor = np.ones_like(before)
    factor[known] = np.sqrt(before[known] / after[known])
    graph.arrays[first.input[1]] = left / factor.reshape(-1, *[1] * (left.ndim - 1))
    graph.set_bias(first, graph.bias(first) / factor)
    axis = 0 if depthwise else 1
    shape = [1] * right.ndim
    shape[axis] = -1
    graph.arrays[second.input[1]] = right * factor.reshape(shape)
