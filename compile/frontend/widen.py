"""Makes float16 networks float32, in which ONNX Runtime computes them on CPUs as well."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mobilenet_tvm.compile.frontend.graph import renamed, replace_nodes

#: Attributes that are the type of a result.
_TYPES = ("to", "dtype", "output_dtype")


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose values are float32 where the given one's are float16.

    Inputs and outputs keep their types. As in ONNX Runtime, values are not rounded to float16 in
    between, so that its Cast to float16 does nothing.

    Parameters
    ----------
    model : onnx.ModelProto
        A model without functions.
    """
    if not has_float16(model.graph):
        return model
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    inputs = _names(graph.input)
    # An output may be an input.
    outputs = [name for name in _names(graph.output) if name not in inputs]
    names = {name: f"{name}/float32" for name in (*inputs, *outputs)}
    nodes = [renamed(node, names) for node in graph.node]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            _widen(attribute.t)
    before = [_cast(name, names[name], TensorProto.FLOAT) for name in inputs]
    after = [_cast(names[name], name, TensorProto.FLOAT16) for name in outputs]
    replace_nodes(graph, [*before, *nodes, *after])
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
        _widen(tensor)
    del graph.value_info[:]
    return wide


def has_float16(graph: onnx.GraphProto) -> bool:
    """Return whether an input, an output, a constant or a result of a graph is float16."""
    return (
        bool(_names(graph.input) or _names(graph.output))
        or any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)
        or any(
            attribute.t.data_type == TensorProto.FLOAT16
            or (attribute.name in _TYPES and attribute.i == TensorProto.FLOAT16)
            for node in graph.node
            for attribute in node.attribute
        )
    )


def _names(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    return [v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT16]


def _cast(value: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [value], [result], name=result, to=kind)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
