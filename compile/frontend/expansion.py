"""Replaces one quantised operator by DequantizeLinear, float operators and QuantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mobilenet_tvm.compile.frontend.check import unsupported
from mobilenet_tvm.compile.frontend.qdq_graph import QdqGraph
from mobilenet_tvm.targets.errors import UserError

#: The types of data and weights.
BYTES = (TensorProto.INT8, TensorProto.UINT8)


@dataclass(frozen=True)
class Parameters:
    """How a tensor is quantised.

    Parameters
    ----------
    scale : str
        Name of the scale: a scalar, or a vector of one scale per channel.
    zero : str
        Name of the zero point, of the same shape, or '' for 0.
    axis : int, optional
        The axis of the channels; None stands for one scale.
    """

    scale: str
    zero: str
    axis: int | None

    @property
    def attributes(self) -> dict[str, int]:
        """Attributes of a QuantizeLinear or DequantizeLinear with these parameters."""
        return {} if self.axis is None else {"axis": self.axis}

    def inputs(self, value: str) -> list[str]:
        """Return the inputs of a QuantizeLinear or DequantizeLinear of a value."""
        return [value, self.scale, self.zero] if self.zero else [value, self.scale]


class Expansion:
    """One quantised operator, and the nodes that take its place.

    Parameters
    ----------
    graph : QdqGraph
        The new graph; the original node's predecessors are already in it.
    node : onnx.NodeProto
        The quantised operator.
    """

    def __init__(self, graph: QdqGraph, node: onnx.NodeProto) -> None:
        self.graph = graph
        self.node = node
        self.name = node.name or node.output[0]
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def refuse(self, reason: str) -> UserError:
        """Return the error for a variant that is not supported."""
        return unsupported(self.node.op_type, self.name, reason)

    def needs_opset_13(self) -> None:
        """Say that the new nodes need opset 13."""
        self.graph.needs_opset_13 = self.graph.needs_opset_13 or self.node

    def optional(self, index: int) -> str:
        """Return the name of an input, or '' if it is left out."""
        return str(self.node.input[index]) if index < len(self.node.input) else ""

    def input(self, index: int) -> str:
        """Return the name of an input that must be there."""
        name = self.optional(index)
        if not name:
            raise self.refuse(f"its input {index} is missing")
        return name

    def chosen(self, *names: str) -> dict[str, Any]:
        """Return those of the named attributes that the operator has."""
        return {name: self.attributes[name] for name in names if name in self.attributes}

    def parameters(self, scale: int, zero: int, axis: int | None = None) -> Parameters:
        """Return the parameters that are at two places among the inputs.

        Parameters
        ----------
        scale, zero : int
            The places; the zero point may be missing.
        axis : int, optional
            The axis of the channels; None refuses a scale per channel.
        """
        names = [self.input(scale), *filter(None, [self.optional(zero)])]
        arrays = [self.graph.array(name) for name in names]
        if self.graph.type_of(names[0]) not in (0, TensorProto.FLOAT):
            raise self.refuse("scales that are not float32")
        known = [array for array in arrays if array is not None]
        size = max((array.size for array in known), default=1)
        if len(known) < len(arrays):
            if axis is not None or size != 1:
                raise self.refuse("a weight's scale or zero point that is computed at run time")
            return Parameters(names[0], self.optional(zero), None)
        if any(array.size not in (1, size) or (size > 1 and array.ndim > 1) for array in known):
            shapes = " and ".join(str(list(array.shape)) for array in known)
            raise self.refuse(f"a scale and a zero point of shapes {shapes}")
        if size > 1 and axis is None:
            raise self.refuse(f"{size} scales or zero points instead of one")
        shape = (size,) if size > 1 else ()
        names = [
            self.graph.broadcast(name, array, shape)
            for name, array in zip(names, known, strict=True)
        ]
        return Parameters(names[0], names[1] if len(names) > 1 else "", axis if shape else None)

    def dequantize(
        self, role: str, value: str, parameters: Parameters, types: tuple[int, ...] = BYTES
    ) -> str:
        """Add a DequantizeLinear.

        Parameters
        ----------
        role : str
            What the value is for the operator, such as `x`.
        value : str
            Its name.
        parameters : Parameters
            How it is quantised.
        types : tuple of int
            The element types that are supported.

        Returns
        -------
        str
            The name of the float32 value.
        """
        self._check_type(value, types)
        self._check_channels(value, parameters)
        name = f"{self.name}_dequantize_{role}"
        return self._scaled("DequantizeLinear", value, parameters, name, self.graph.unique(name))

    def dequantized(self, role: str, index: int) -> str:
        """Dequantise an input with one scale that is followed by its scale and its zero point."""
        return self.dequantize(role, self.input(index), self.parameters(index + 1, index + 2))

    def bias(
        self, index: int, data: Parameters, weight: Parameters, factor: float = 1.0
    ) -> str | None:
        """Dequantise the bias, whose scale is the product of the data's and the weight's.

        Parameters
        ----------
        index : int
            The input's place; it may be missing.
        data, weight : Parameters
            How the data and the weight are quantised.
        factor : float
            A further factor of the scale.

        Returns
        -------
        str or None
            The name of the float32 bias, or None if there is none.
        """
        value = self.optional(index)
        if not value:
            return None
        left, right = self.graph.array(data.scale), self.graph.array(weight.scale)
        if left is None or right is None:
            raise self.refuse("a bias with a scale that is computed at run time")
        scale = np.asarray(np.float32(factor) * left * right, np.float32)
        axis = None
        if scale.ndim:
            bias = self.graph.array(value)
            if bias is None:
                raise self.refuse("a bias that is computed at run time, with a scale per channel")
            # ONNX Runtime lets one value serve all channels.
            shape = np.broadcast_shapes(bias.shape, scale.shape)
            value, axis = self.graph.broadcast(value, bias, shape), len(shape) - 1
        name = self.graph.constant(scale, f"{self.name}_bias_scale")
        return self.dequantize("bias", value, Parameters(name, "", axis), (TensorProto.INT32,))

    def compute(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add the float operator, under the original's name; its output is new, or the given one.

        Returns
        -------
        str
            The name of its output.
        """
        output = output or self.graph.unique(f"{self.name}_float")
        return self.graph.add(op, inputs, self.name, output, **attributes)

    def quantize(
        self, value: str, scale: int, *, channels_last: bool = False, rank: int = 4
    ) -> None:
        """Add the QuantizeLinear that makes the original's output.

        Parameters
        ----------
        value : str
            The float operator's output.
        scale : int
            The place of the scale among the inputs; the zero point is the next one.
        channels_last : bool
            Whether the original's output is NHWC.
        rank : int
            The number of axes, if so.
        """
        output = self.node.output[0]
        parameters = self.parameters(scale, scale + 1)
        kind = self.graph.type_of(parameters.zero or self.input(0))
        if kind not in BYTES:
            raise self.refuse("its output's type is not known" if not kind else "not 8 bits")
        if not parameters.zero and kind == TensorProto.INT8:
            # Without a zero point, QuantizeLinear makes uint8.
            zero = self.graph.constant(np.zeros((), np.int8), f"{self.name}_zero_point")
            parameters = Parameters(parameters.scale, zero, None)
        name = f"{self.name}_quantize"
        made = self.graph.unique(name) if channels_last else output
        self.graph.set_type(output, kind)
        self._scaled("QuantizeLinear", value, parameters, name, made)
        if channels_last:
            order = [0, *range(2, rank), 1]
            self.graph.add("Transpose", [made], f"{self.name}_to_nhwc", output, perm=order)

    def to_nchw(self, value: str, rank: int) -> str:
        """Move the channels from the last axis to the second one."""
        name = f"{self.name}_to_nchw"
        order = [0, rank - 1, *range(1, rank - 1)]
        self.graph.set_type(made := self.graph.unique(name), self.graph.type_of(value))
        return self.graph.add("Transpose", [value], name, made, perm=order)

    def convert(self, op: str, parameters: Parameters) -> None:
        """Replace com.microsoft's QuantizeLinear or DequantizeLinear by the standard one."""
        if op == "QuantizeLinear":
            kind = self.graph.type_of(parameters.zero) if parameters.zero else TensorProto.UINT8
            if kind not in BYTES:
                raise self.refuse("not 8 bits")
            self.graph.set_type(self.node.output[0], kind)
        else:
            self._check_type(self.input(0), (*BYTES, TensorProto.INT32))
        self._scaled(op, self.input(0), parameters, self.name, self.node.output[0])

    def _scaled(self, op: str, value: str, parameters: Parameters, name: str, output: str) -> str:
        if parameters.axis is not None:
            self.needs_opset_13()
        return self.graph.add(op, parameters.inputs(value), name, output, **parameters.attributes)

    def _check_type(self, value: str, types: tuple[int, ...]) -> None:
        kind = self.graph.type_of(value)
        if kind and kind not in types:
            raise self.refuse(f"'{value}' is {TensorProto.DataType.Name(kind).lower()}")

    def _check_channels(self, value: str, parameters: Parameters) -> None:
        array, scale = self.graph.array(value), self.graph.array(parameters.scale)
        if parameters.axis is None or array is None or scale is None:
            return
        if array.ndim <= parameters.axis or array.shape[parameters.axis] != scale.size:
            raise self.refuse(f"{scale.size} scales for '{value}' of shape {list(array.shape)}")
