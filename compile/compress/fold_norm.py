"""Folds batch normalisations into the convolutions before them."""

from __future__ import annotations

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.float_graph import FloatGraph, attribute


def fold_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which convolutions include the batch normalisation that follows them.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model; it is not changed. Normalisations of a value that others read too stay.
    """
    graph = FloatGraph(model)
    graph.own_constants()
    for node in graph.layers():
        norm = graph.only_reader(node.output[0])
        if node.op_type != "Conv" or norm is None or norm.op_type != "BatchNormalization":
            continue
        if any(name not in graph.arrays for name in norm.input[1:5]):
            continue
        scale, shift, mean, variance = (
            graph.arrays[name].astype(np.float64) for name in norm.input[1:5]
        )
        factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        weight = graph.arrays[node.input[1]]
        folded = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        graph.set_bias(node, (graph.bias(node) - mean) * factor + shift)
        graph.arrays[node.input[1]] = folded.astype(np.float32)
        node.output[0] = norm.output[0]
        graph.nodes.remove(norm)
    return graph.model()
