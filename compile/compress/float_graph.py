"""A float network that passes change: its nodes, constants, and who reads what."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mobilenet_tvm.compile.frontend.graph import reads, replace_nodes
from mobilenet_tvm.compile.frontend.widen import has_float16
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]


class FloatGraph:
    """A copy of a network, with its constants as arrays.

    Parameters
    ----------
    model : onnx.ModelProto
        A prepared model without foldable nodes; it is not changed.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        In topological order.
    arrays : dict of str to numpy.ndarray
        The constants by name.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self.nodes: list[onnx.NodeProto] = list(self._model.graph.node)
        self.arrays: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self._outputs = {output.name for output in model.graph.output}

    def model(self) -> onnx.ModelProto:
        """Return the network as it is now, without constants that nothing reads."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        replace_nodes(model.graph, self.nodes)
        del model.graph.initializer[:], model.graph.value_info[:]
        used = {name for node in self.nodes for name in reads(node)} | self._outputs
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array, order="C"), name)
            for name, array in self.arrays.items()
            if name in used
        )
        return model

    def is_output(self, name: str) -> bool:
        """Return whether a value is an output of the network."""
        return name in self._outputs

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """Return the node that alone reads a value, or None."""
        readers = [node for node in self.nodes if name in reads(node)]
        return readers[0] if len(readers) == 1 and not self.is_output(name) else None

    def layers(self) -> list[onnx.NodeProto]:
        """Return the convolutions and dense layers whose weights are constants."""
        return [
            node
            for node in self.nodes
            if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in self.arrays
        ]

    def own_constants(self) -> None:
        """Give each layer constants that no other node reads."""
        for node in self.layers():
            for place in range(1, len(node.input)):
                if node.input[place] in self.arrays:
                    self.own(node, place)

    def own(self, node: onnx.NodeProto, place: int) -> str:
        """Make a constant that a node reads one that no other node reads; return its name."""
        name = node.input[place]
        uses = sum(list(each.input).count(name) for each in self.nodes)
        if uses > 1 or self.is_output(name):
            node.input[place] = f"{node.output[0]}/input{place}"
            self.arrays[node.input[place]] = self.arrays[name]
        return str(node.input[place])

    def bias(self, node: onnx.NodeProto) -> Array:
        """Return the bias of a convolution or Gemm; zeros where it has none."""
        if len(node.input) > 2 and node.input[2]:
            return self.arrays[node.input[2]]
        weight = self.arrays[node.input[1]]
        transposed = node.op_type == "Gemm" and not attribute(node, "transB", 0)
        return np.zeros(weight.shape[1 if transposed else 0], np.float32)

    def set_bias(self, node: onnx.NodeProto, bias: Array) -> None:
        """Give a convolution or Gemm a bias."""
        if len(node.input) < 3 or not node.input[2]:
            del node.input[2:]
            node.input.append(f"{node.output[0]}/bias")
        self.arrays[node.input[2]] = bias.astype(np.float32)

    def shift(self, node: onnx.NodeProto, change: Array) -> None:
        """Add a number per output to what a layer computes; a batch normalisation takes it in."""
        norm = self.only_reader(node.output[0])
        if (
            norm is not None
            and norm.op_type == "BatchNormalization"
            and norm.input[3] in self.arrays
        ):
            mean = self.own(norm, 3)
            self.arrays[mean] = (self.arrays[mean] - change).astype(np.float32)
        elif node.op_type == "MatMul":
            name, output = f"{node.output[0]}/shift", node.output[0]
            self.arrays[name] = change.astype(np.float32)
            node.output[0] = f"{output}/product"
            add = helper.make_node("Add", [node.output[0], name], [output], name)
            self.nodes.insert(self.nodes.index(node) + 1, add)
        else:
            if len(node.input) > 2 and node.input[2]:
                self.own(node, 2)
            # A Gemm multiplies its product by alpha and its bias by beta.
            factor = attribute(node, "alpha", 1.0) / attribute(node, "beta", 1.0)
            self.set_bias(node, self.bias(node) + factor * change)


def require_float32(model: onnx.ModelProto, purpose: str) -> None:
    """Raise a UserError if a model is quantised or has float16 values; `purpose` is a verb."""
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise UserError("the model is quantised already; compile it as it is, or give a float one")
    if has_float16(model.graph):
        raise UserError(f"the model has float16 values; export it in float32 to {purpose} it")


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute, or what it is where the node has none."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
