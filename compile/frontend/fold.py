"""Folds constants in ONNX graphs before they are imported."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mobilenet_tvm.compile.frontend.check import first_line, unsupported
from mobilenet_tvm.compile.frontend.graph import branch, reads
from mobilenet_tvm.compile.frontend.limits import FoldingBudget

Array = np.ndarray[Any, Any]

#: Inputs of which the importer needs the value, by operator.
_BOUNDS = {"Clip": (1, 2), "Pad": (2,)}


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace nodes whose values do not depend on the inputs with initialisers.

    Exporters compute pads, axes and shapes by chains of nodes from constants and shapes, and share
    weights through Identity. The importer needs their values. Integers followed by
    DequantizeLinear stay, and floats followed by QuantizeLinear become such integers, since
    integer layers compute with them; a later pass folds what is left. Only bounds are folded.

    Parameters
    ----------
    model : onnx.ModelProto
        A checked model with static inputs; it is not changed.

    Returns
    -------
    onnx.ModelProto
        A model without nodes of known value, except outputs and DequantizeLinear.

    Raises
    ------
    UserError
        If a value cannot be computed, or the constants would become too large.
    """
    changed, budget = True, FoldingBudget(model.opset_import)
    while changed:
        # Folding one shape, or putting a branch in place, may make other values known.
        model, changed = _fold_once(model, budget)
    return model


def _fold_once(model: onnx.ModelProto, budget: FoldingBudget) -> tuple[onnx.ModelProto, bool]:
    """Return a model with what is known folded, and whether a shape or a branch was."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shapes = _known_shapes(model)
    outputs = {value.name for value in model.graph.output}
    bounds = _bounds(model.graph)
    nodes = []
    changed = False
    waiting = list(reversed(model.graph.node))
    while waiting:
        node = waiting.pop()
        values = None
        if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
            # An array of that shape which takes no memory.
            stand_in = np.broadcast_to(np.float32(0), shapes[node.input[0]])
            values = _evaluate(node, {node.input[0]: stand_in}, model)
            changed = True
        elif node.op_type == "If" and node.input[0] in constants:
            taken, tensors = branch(node, bool(constants[node.input[0]].reshape(())))
            constants.update((tensor.name, numpy_helper.to_array(tensor)) for tensor in tensors)
            waiting.extend(reversed(taken))
            changed = True
            continue
        elif outputs.isdisjoint(node.output) and _is_constant(node, constants):
            keeps = _keeps_integers(node, constants)
            if not keeps:
                budget.spend(node, constants)
            try:
                if node.output[0] in bounds:
                    values = _dequantize(node, constants)
                if values is None and not keeps:
                    values = _quantize(node, constants) or _evaluate(node, constants, model)
            except Exception as error:
                # Whatever ONNX's reference raises for inputs and attributes that do not fit.
                raise unsupported(
                    node.op_type, node.name or node.output[0], first_line(error)
                ) from error
        if values is None:
            nodes.append(node)
        else:
            constants.update(values)
    used = {name for node in nodes for name in reads(node)} | outputs
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:], folded.graph.initializer[:]
    folded.graph.node.extend(nodes)
    folded.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in used
    )
    return folded, changed


def _bounds(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the values that are bounds, or what is padded with."""
    places = [(node, place) for node in graph.node for place in _BOUNDS.get(node.op_type, ())]
    return {node.input[place] for node, place in places if place < len(node.input)}


def _keeps_integers(node: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    """Return whether a node dequantises integers that layers can compute with."""
    blocked = any(a.name == "block_size" and a.i for a in node.attribute)
    types = (np.int8, np.uint8, np.int32)
    return (
        node.op_type == "DequantizeLinear"
        and not blocked
        and constants[node.input[0]].dtype in types
    )


def _dequantize(node: onnx.NodeProto, constants: dict[str, Array]) -> dict[str, Array] | None:
    """Return a dequantised number, or None for an array or another node."""
    if node.op_type != "DequantizeLinear":
        return None
    data, scale, *zero = (constants[name] for name in node.input if name)
    if data.size != 1 or scale.size != 1 or data.dtype.kind not in "iu":
        return None
    centred = data.astype(np.int32) - (zero[0].astype(np.int32) if zero else np.int32(0))
    return {node.output[0]: (centred.astype(scale.dtype) * scale).reshape(data.shape)}


def _quantize(node: onnx.NodeProto, constants: dict[str, Array]) -> dict[str, Array] | None:
    """Return what QuantizeLinear makes of floats if it is 8 bits wide, or None for other nodes.

    ONNX's reference converts to int32 before it clips, so that large numbers change their sign.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type != "QuantizeLinear" or attributes.get("block_size", 0):
        return None
    data, scale, *zeros = (constants[name] for name in node.input if name)
    kind = attributes.get("output_dtype", 0) or onnx.TensorProto.UINT8
    dtype = zeros[0].dtype if zeros else helper.tensor_dtype_to_np_dtype(kind)
    if dtype not in (np.int8, np.uint8) or scale.dtype != np.float32:
        return None
    shape = [1] * data.ndim
    if scale.size > 1:
        # The default axis, 1, is the only one of a vector too.
        shape[min(attributes.get("axis", 1), data.ndim - 1)] = scale.size
    zero = zeros[0].astype(np.float32).reshape(shape) if zeros else np.float32(0)
    limits = np.iinfo(dtype)
    steps = np.rint(data.astype(np.float32) / scale.reshape(shape)) + zero
    return {node.output[0]: np.clip(steps, limits.min, limits.max).astype(dtype)}


def _known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the static shapes of values by name, if a Shape node needs any."""
    if not any(node.op_type in ("Shape", "Size") for node in model.graph.node):
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
        return None
    results = evaluator.run(None, {name: constants[name] for name in names})
    return {name: np.asarray(value) for name, value in zip(outputs, results, strict=True)}
