"""Checks a model's nodes: types and shapes by ONNX's own inference, and what that leaves out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx
from onnx import helper

from mobilenet_tvm.compile.frontend.check import first_line
from mobilenet_tvm.compile.frontend.limits import MAX_ELEMENTS, MAX_SHAPE
from mobilenet_tvm.targets.errors import UserError

#: The weight among the inputs of each operator that has one of constant shape.
_WEIGHTS = {
    "BatchNormalization": 1,
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "PRelu": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
_CONVOLUTIONS = ("Conv", "ConvInteger", "ConvTranspose", "QLinearConv")
_POOLS = ("AveragePool", "LpPool", "MaxPool")


def check_nodes(model: onnx.ModelProto, origin: str) -> None:
    """Reject nodes whose inputs and attributes do not fit together.

    Parameters
    ----------
    model : onnx.ModelProto
        A model that ONNX's checker has accepted, without functions.
    origin : str
        The model's name in error messages, such as its path.

    Raises
    ------
    UserError
        If there is such a node, with its name and the reason.
    """
    shapes = _infer(model, origin)
    for node in model.graph.node:
        for fault in _faults(node, shapes):
            name = node.name or node.output[0]
            raise UserError(
                f"{origin}: not a valid ONNX model: node '{name}' ({node.op_type}) has {fault}; "
                "export it again"
            )


def _infer(model: onnx.ModelProto, origin: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes that are known, by name; an extent that is not known is -1."""
    graph = model.graph
    # The inference needs the values of shapes only.
    large = {t.name: t for t in graph.initializer if math.prod(t.dims) > MAX_SHAPE}
    kept = [tensor for tensor in graph.initializer if tensor.name not in large]
    # What a file says of its own results is not trusted, as by ONNX Runtime.
    outputs = [_untyped(value) for value in graph.output]
    stand_ins = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large.values()]
    inputs = [value for value in graph.input if value.name not in large]
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.CopyFrom(
        helper.make_graph(
            graph.node,
            graph.name or "graph",
            [*inputs, *stand_ins],
            outputs,
            kept,
            sparse_initializer=graph.sparse_initializer,
        )
    )
    try:
        found = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise UserError(f"{origin}: not a valid ONNX model: {first_line(error)}") from None
    shapes = {tensor.name: tuple(tensor.dims) for tensor in kept}
    for value in (*found.input, *found.value_info, *found.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims
            )
    return shapes


def _untyped(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=value.name)


def _faults(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield what is wrong with a node that the inference has accepted."""
    for name in node.output:
        if (count := math.prod(max(extent, 1) for extent in shapes.get(name, ()))) > MAX_ELEMENTS:
            yield f"an output of {count} elements, of which {MAX_ELEMENTS} are possible"
    place = _WEIGHTS.get(node.op_type, len(node.input))
    weight = shapes.get(node.input[place]) if place < len(node.input) else None
    if weight is not None and 0 in weight:
        yield f"a weight without elements, of shape {list(weight)}"
    if node.op_type not in (*_CONVOLUTIONS, *_POOLS):
        return
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for attribute, least in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)):
        values = attributes.get(attribute, [])
        if any(value < least for value in values):
            yield f"{attribute} {values}, of which {least} is the least"
    if node.op_type not in _CONVOLUTIONS or weight is None:
        return
    kernel = attributes.get("kernel_shape", list(weight[2:]))
    if kernel != list(weight[2:]):
        yield f"kernel_shape {kernel} and a weight of shape {list(weight)}"
    image, group = shapes.get(node.input[0], ()), attributes.get("group", 1)
    if group < 1 or weight[0] % group:
        yield f"group {group} and a weight of shape {list(weight)}"
    channels = weight[0] if node.op_type == "ConvTranspose" else weight[1] * group
    if len(image) > 1 and image[1] not in (channels, -1):
        yield f"{image[1]} channels in its input and {channels} in its weight"
