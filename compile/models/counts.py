"""Counts the parameters and the multiply-accumulates of a model."""

import math

import onnx

from mobilenet_tvm.compile.models.parameters import constants, layers
from mobilenet_tvm.targets.errors import UserError

#: Extents of a value.
Shape = tuple[int, ...]


def parameter_count(model: onnx.ModelProto) -> int:
    """Count the trainable parameters of all convolutions, batch norms and matrix products.

    Running statistics are not trained and not counted. Parameters that layers
    share in the file are counted for each layer, as in the published figures.

    Parameters
    ----------
    model
        Any ONNX model, quantised ones included.

    Returns
    -------
    int
        Number of scalars.
    """
    known = constants(model.graph, through=("Identity", "DequantizeLinear"))
    return sum(
        math.prod(tensor.dims)
        for _, names in layers(model.graph)
        for role, name in names.items()
        if role in ("weight", "bias") and (tensor := known.get(name))
    )


def macs(model: onnx.ModelProto) -> int:
    """Count the multiply-accumulates of all convolutions and matrix products.

    Parameters
    ----------
    model
        Any ONNX model whose shapes are static, its batch included: a batch of 2
        costs twice as much as one image.

    Returns
    -------
    int
        Multiply-accumulates of one run; padding counts as if it were computed,
        as in the papers.

    Raises
    ------
    UserError
        If a shape that is needed cannot be inferred.
    """
    shapes = static_shapes(model)
    return sum(_macs(node, shapes) for node in model.graph.node)


def static_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Infer the shape of each value by its name; an extent that is not static is 0.

    Parameters
    ----------
    model
        Any ONNX model.

    Returns
    -------
    dict
        Of constants too. Values whose shape cannot be inferred are missing.

    Raises
    ------
    UserError
        If shapes contradict each other.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot infer the model's shapes: {reason}; fix the model") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


def _macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Count those of one node: its output elements times the terms of each one's sum."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    left, right, output = (shapes.get(n, ()) for n in (*node.input[:2], node.output[0]))
    if not (left and right and output and all(left + right + output)):
        raise UserError(
            f"the shapes at {node.op_type} node {node.name or node.output[0]!r} are not static; "
            "export the model with a fixed batch and resolution"
        )
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(right[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(output) * left[0 if transposed else -1]
