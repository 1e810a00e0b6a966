"""Corrects biases for the mean error that rounded weights cause.

Nagel, van Baalen, Blankevoort and Welling 2019, arXiv 1906.04721, section 4.2, with the means of
activations from calibration pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.float_graph import FloatGraph, attribute

Array = np.ndarray[Any, Any]


def correct_bias(
    model: onnx.ModelProto, weights: Mapping[str, Array], means: Mapping[str, Array]
) -> onnx.ModelProto:
    """Subtract from each bias what the error of the weights adds to the mean output.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model; it is not changed.
    weights : mapping of str to numpy.ndarray
        The quantised weights, as floats, by the names of their nodes.
    means : mapping of str to numpy.ndarray
        The mean of each channel of the layers' inputs, by name.
    """
    graph = FloatGraph(model)
    graph.own_constants()
    for node in graph.layers():
        if node.name not in weights or node.op_type == "MatMul":
            continue
        error = weights[node.name] - graph.arrays[node.input[1]]
        mean = means[node.input[0]]
        if node.op_type == "Gemm":
            shift = (error if attribute(node, "transB", 0) else error.T) @ mean
        else:
            # Padding is left out, as if the picture went on.
            error = error.reshape(*error.shape[:2], -1).sum(2)
            groups = attribute(node, "group", 1)
            parts = zip(np.split(error, groups), np.split(mean, groups), strict=True)
            shift = np.concatenate([part @ inputs for part, inputs in parts])
        graph.set_bias(node, graph.bias(node) - shift)
    return graph.model()
