"""Folds constants in ONNX graphs before they are imported."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, Any]


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace nodes whose values do not depend on the inputs with initialisers.

    Exporters compute pads, axes and shapes by chains of nodes from constants and shapes, keep
    weights as integers followed by DequantizeLinear, and share them through Identity. The importer
    needs their values.

    Parameters
    ----------
    model : onnx.ModelProto
        A checked model with static inputs; it is not changed.

    Returns
    -------
    onnx.ModelProto
        A model without nodes of known value, except outputs.
    """
    while True:
        # Folding one shape may make others known.
        folded = _fold_once(model)
        shapes_left = any(node.op_type == "Shape" for node in folded.graph.node)
        if not shapes_left or len(folded.graph.node) == len(model.graph.node):
            return folded
        model = folded


def _fold_once(model: onnx.ModelProto) -> onnx.ModelProto:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shapes = _known_shapes(model)
    outputs = {value.name for value in model.graph.output}
    nodes = []
    for node in model.graph.node:
        values = None
        if outputs.isdisjoint(node.output):
            if node.op_type == "Shape" and node.input[0] in shapes:
                # An array of that shape which takes no memory.
                stand_in = np.broadcast_to(np.float32(0), shapes[node.input[0]])
                values = _evaluate(node, {node.input[0]: stand_in}, model)
            elif _is_constant(node, constants):
                values = _evaluate(node, constants, model)
        if values is None:
            nodes.append(node)
        else:
            constants.update(values)
    used = {name for node in nodes for name in node.input} | outputs
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:], folded.graph.initializer[:]
    folded.graph.node.extend(nodes)
    folded.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in used
    )
    return folded


def _known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the static shapes of values by name, if a Shape node needs any."""
    if not any(node.op_type == "Shape" for node in model.graph.node):
        return {}
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _is_constant(node: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    subgraphs = any(attribute.HasField("g") for attribute in node.attribute)
    random = node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
    return not (subgraphs or random) and all(not name or name in constants for name in node.input)


def _evaluate(
    node: onnx.NodeProto, constants: dict[str, Array], model: onnx.ModelProto
) -> dict[str, Array] | None:
    """Return the values of a node's outputs, or None if ONNX's reference does not support it."""
    names = [name for name in dict.fromkeys(node.input) if name]
    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(constants[name].dtype), None
            )
            for name in names
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    try:
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import))
    except RuntimeError:
        # For example, DequantizeLinear before opset 19, which a later pass folds.
        return None
    results = evaluator.run(None, {name: constants[name] for name in names})
    return {name: np.asarray(value) for name, value in zip(outputs, results, strict=True)}
