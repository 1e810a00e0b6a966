"""Writes a network as an ONNX graph."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobilenet_tvm.compile.models.layers import (
    NORM_PARTS,
    Activation,
    ConvolutionSpec,
    LinearSpec,
)
from mobilenet_tvm.compile.models.networks import Architecture

_OPSET = 17
_IR_VERSION = 8

_Shape = tuple[int, ...]


def to_onnx(
    architecture: Architecture,
    title: str,
    image: _Shape,
    parameters: dict[str, NDArray[np.float32]],
) -> onnx.ModelProto:
    """Write a network as ONNX, float32, NCHW.

    Parameters
    ----------
    architecture
        The network.
    title
        Name of the graph.
    image
        Shape of the input: batch, 3, height, width; height and width are equal.
    parameters
        By name, as `architecture.parameter_shapes` lists them.

    Returns
    -------
    onnx.ModelProto
        Its input is `input`; its outputs have the architecture's names.
    """
    nodes = _Nodes(image)
    values = architecture.evaluate(nodes, "input")
    for node in nodes.list:
        node.output[:] = [next((n for n, v in values.items() if v == o), o) for o in node.output]
    outputs = {name: nodes.shapes[value] for name, value in values.items()}
    constants = parameters | nodes.constants
    graph = helper.make_graph(
        nodes.list,
        title,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="mobilenet-tvm",
    )


class _Nodes:
    """Adds a node for each operator; a value is represented by its name."""

    def __init__(self, image: _Shape) -> None:
        self.list: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.shapes: dict[str, _Shape] = {"input": image}

    def convolution(self, layer: ConvolutionSpec, value: str) -> str:
        batch, _, side, _ = self.shapes[value]
        shape = (batch, layer.outputs, *[layer.output_side(side)] * 2)
        names = [f"{layer.name}.weight"]
        if layer.bias and not layer.norm:
            names.append(f"{layer.name}.bias")
        dilations = {"dilations": [layer.dilation] * 2} if layer.dilation > 1 else {}
        value = self._node(
            "Conv",
            [value, *names],
            shape,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
            group=layer.groups,
            **dilations,
        )
        if layer.norm:
            names = [f"{layer.norm}.{part}" for part in NORM_PARTS]
            value = self._node("BatchNormalization", [value, *names], shape, epsilon=layer.epsilon)
        return self._activate(value, layer.activation)

    def linear(self, layer: LinearSpec, value: str) -> str:
        shape = (self.shapes[value][0], layer.outputs)
        names = [f"{layer.name}.weight", f"{layer.name}.bias"]
        value = self._node("Gemm", [value, *names], shape, transB=1)
        return self._activate(value, layer.activation)

    def pool(self, value: str) -> str:
        return self._node("GlobalAveragePool", [value], (*self.shapes[value][:2], 1, 1))

    def flatten(self, value: str) -> str:
        return self._node("Flatten", [value], self.shapes[value][:2])

    def add(self, left: str, right: str) -> str:
        return self._node("Add", [left, right], self.shapes[left])

    def multiply(self, left: str, right: str) -> str:
        shape = np.broadcast_shapes(self.shapes[left], self.shapes[right])
        return self._node("Mul", [left, right], shape)

    def resize(self, value: str, like: str) -> str:
        shape = (*self.shapes[value][:2], *self.shapes[like][2:])
        return self._node(
            "Resize",
            [value, "", "", self._sizes(shape)],
            shape,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def rows(self, value: str, columns: int) -> str:
        batch, channels, height, width = self.shapes[value]
        pixels = (batch, height, width, channels)
        value = self._node("Transpose", [value], pixels, perm=[0, 2, 3, 1])
        shape = (batch, height * width * channels // columns, columns)
        return self._node("Reshape", [value, self._sizes(shape)], shape)

    def concatenate(self, values: list[str]) -> str:
        batch, _, *rest = self.shapes[values[0]]
        shape = (batch, sum(self.shapes[value][1] for value in values), *rest)
        return self._node("Concat", values, shape, axis=1)

    def _activate(self, value: str, activation: Activation | None) -> str:
        shape = self.shapes[value]
        match activation:
            case "relu":
                return self._node("Relu", [value], shape)
            case "relu6":
                self.constants["zero"] = np.array(0, np.float32)
                self.constants["six"] = np.array(6, np.float32)
                return self._node("Clip", [value, "zero", "six"], shape)
            case "silu":
                return self._node("Mul", [value, self._node("Sigmoid", [value], shape)], shape)
            case "sigmoid":
                return self._node("Sigmoid", [value], shape)
            case "hard_sigmoid":
                return self._node("HardSigmoid", [value], shape, alpha=1 / 6, beta=0.5)
            case "hard_swish":
                return self._node("HardSwish", [value], shape)
            case None:
                return value

    def _sizes(self, shape: _Shape) -> str:
        """Return a constant with a shape."""
        name = f"sizes_{'x'.join(map(str, shape))}"
        self.constants[name] = np.array(shape, np.int64)
        return name

    def _node(self, operator: str, inputs: list[str], shape: _Shape, **attributes: Any) -> str:
        name = f"{operator}_{len(self.list)}"
        self.list.append(helper.make_node(operator, inputs, [name], name, **attributes))
        self.shapes[name] = shape
        return name
