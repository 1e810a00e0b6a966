"""Collects the nodes and initialisers of a graph in which quantised operators are replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mobilenet_tvm.compile.models.parameters import constants

Array = np.ndarray[Any, Any]

#: Operators whose outputs have the type of their first input.
_KEEP_TYPE = frozenset(
    {
        "AveragePool", "Clip", "Concat", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu",
        "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


class QdqGraph:
    """The nodes and initialisers of a graph in which quantised operators are replaced.

    Parameters
    ----------
    graph : onnx.GraphProto
        The original graph; it is not changed.
    opset : int
        The version of the standard operators.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        The nodes so far.
    initializers : list of onnx.TensorProto
        New ones.
    needs_opset_13 : onnx.NodeProto or None
        The first operator that cannot be written in an older opset.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.needs_opset_13: onnx.NodeProto | None = None
        self._constants = constants(graph)
        values = (*graph.input, *graph.value_info, *graph.output)
        self._types = {value.name: value.type.tensor_type.elem_type for value in values}
        self._taken = {value.name for value in values}
        self._taken.update(name for node in graph.node for name in (*node.input, *node.output))
        self._reshaped: dict[tuple[str, tuple[int, ...]], str] = {}

    def keep(self, node: onnx.NodeProto) -> None:
        """Add a node of the original graph."""
        kind = 0
        if node.op_type == "QuantizeLinear":
            kind = self.type_of(node.input[2]) if len(node.input) > 2 else TensorProto.UINT8
        elif node.op_type in _KEEP_TYPE and node.input:
            kind = self.type_of(node.input[0])
        if kind:
            self._types.update(dict.fromkeys(node.output, kind))
        self.nodes.append(node)

    def add(self, op: str, inputs: list[str], name: str, output: str, **attributes: Any) -> str:
        """Add a new node and return its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def unique(self, name: str) -> str:
        """Return a name for a value that no other value has, from one that it should have."""
        found, number = name, 0
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def array(self, name: str) -> Array | None:
        """Return a constant's value, or None for what is computed at run time."""
        tensor = self._constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def constant(self, array: Array, name: str) -> str:
        """Add an initialiser and return its name, which is the given one if that is free."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), self.unique(name))
        # NumPy makes a vector of a contiguous scalar.
        tensor.dims[:] = array.shape
        self._constants[tensor.name] = tensor
        self.initializers.append(tensor)
        return str(tensor.name)

    def broadcast(self, name: str, array: Array, shape: tuple[int, ...]) -> str:
        """Return the name of a constant with a given shape, which is itself if it has it."""
        if array.shape == shape:
            return name
        if (name, shape) not in self._reshaped:
            values = np.broadcast_to(array if shape else array.reshape(()), shape)
            label = f"{name}_vector" if shape else f"{name}_scalar"
            self._reshaped[name, shape] = self.constant(values, label)
        return self._reshaped[name, shape]

    def type_of(self, name: str) -> int:
        """Return a value's element type, or 0 if it is not known."""
        tensor = self._constants.get(name)
        return int(tensor.data_type if tensor else self._types.get(name, 0))

    def set_type(self, name: str, kind: int) -> None:
        """Record a value's element type."""
        self._types[name] = kind
