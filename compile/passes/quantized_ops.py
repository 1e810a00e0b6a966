"""Operators on quantised values, which Relax lacks, with their types and definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, te
from tvm.ir import Op, _ffi_api, register_op_attr
from tvm.relax.transform.legalize_ops.common import register_legalize

from mobilenet_tvm.compile.passes.values import constant, constant_value
from mobilenet_tvm.schedules.workloads import Step, quantization_bounds
from mobilenet_tvm.schedules.workloads.epilogue import quantized

#: round(clamp(sums * scale)) + zero: (sums, scale per channel, 3 numbers).
REQUANTIZE = "mobilenet.requantize"
#: round(clamp(x / scale)) + zero: (x, scale, 3 numbers).
QUANTIZE = "mobilenet.quantize"
#: round(clamp(a * fa + b * fb + offset)): (a, b, 6 numbers).
ADD = "mobilenet.add_quantized"
#: round(clamp((a - za) * (b - zb) * factor)) + zero: (a, b, 6 numbers).
MULTIPLY = "mobilenet.multiply_quantized"
#: A table of 256 values, indexed by a byte: (x, table).
LOOKUP = "mobilenet.lookup"

#: Number of tensors that each reads, before numbers and tables.
TENSORS = {REQUANTIZE: 2, QUANTIZE: 1, ADD: 2, MULTIPLY: 2, LOOKUP: 1}


def requantize(sums: relax.Expr, scale: Any, bounds: Sequence[int], zero: int, dtype: str) -> Any:
    """Return the quantised values of sums times a scale.

    Parameters
    ----------
    sums : Expr
        int32.
    scale : ndarray
        float32, of a shape that broadcasts to that of the sums.
    bounds : sequence of int
        Smallest and largest value.
    zero : int
        The zero point.
    dtype : str
        Type of the values: `uint8` or `int8`.
    """
    numbers = _bounds(bounds, zero)
    return _call(REQUANTIZE, dtype, sums, constant(scale), *numbers)


def quantize(x: relax.Expr, scale: float, bounds: Sequence[int], zero: int, dtype: str) -> Any:
    """Return the quantised values of float32 values, which are divided by the scale."""
    return _call(QUANTIZE, dtype, x, scale, *_bounds(bounds, zero))


def add(
    left: relax.Expr, right: relax.Expr, factors: Sequence[float], bounds: Sequence[int]
) -> Any:
    """Return the quantised sum of quantised values.

    Parameters
    ----------
    left, right : Expr
        Bytes.
    factors : sequence of float
        Of the left and the right, and the offset, which has the zero point in it.
    bounds : sequence of int
        Smallest and largest value.
    """
    return _call(ADD, str(left.ty.dtype), left, right, *factors, *_bounds(bounds, 0))


def multiply(
    left: relax.Expr, right: relax.Expr, numbers: Sequence[float], bounds: Sequence[int], zero: int
) -> Any:
    """Return the quantised product of quantised values; numbers: both zero points, and a factor."""
    last = _bounds(bounds, zero)
    return _call(MULTIPLY, str(left.ty.dtype), left, right, *numbers, *last)


def lookup(x: relax.Expr, table: Any) -> Any:
    """Return values of 8 bits mapped by a table, which the bytes of the values index."""
    return _call(LOOKUP, str(table.dtype), x, constant(table))


def numbers_of(call: relax.Call) -> Any:
    """Return the numbers of a call as a float32 vector."""
    values = [constant_value(argument) for argument in call.args]
    return np.array([v for v in values if v is not None and v.shape == ()], np.float32)


def _bounds(bounds: Sequence[int], zero: int) -> tuple[float, ...]:
    low, high = bounds
    return quantization_bounds(low, high, zero)


def _call(name: str, dtype: str, *arguments: Any) -> relax.Call:
    """Return a call; numbers become constants without axes, the type that of an empty constant."""
    values = [
        a if isinstance(a, relax.Expr) else constant(np.asarray(a, np.float32)) for a in arguments
    ]
    return relax.Call(Op.get(f"relax.{name}"), [*values, constant(np.zeros(0, dtype))])


def _register(name: str, compute: Callable[..., Any]) -> None:
    """Register an operator and its definition, used where it is not part of a layer."""
    full = f"relax.{name}"
    _ffi_api.RegisterOp(full, name)
    register_op_attr(full, "FPurity", True)

    def infer(call: relax.Call, _: Any) -> relax.TensorType:
        shape = _shape(call, TENSORS[name] if name in (ADD, MULTIPLY) else 1)
        return relax.TensorType(shape, str(call.args[-1].ty.dtype))

    register_op_attr(full, "FInferType", infer)

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        dtype = str(call.args[-1].ty.dtype)
        tensors = call.args[: TENSORS[name] + (name == LOOKUP)]
        numbers = [tvm.tirx.const(float(number), "float32") for number in numbers_of(call)]
        shape = _shape(call, TENSORS[name] if name in (ADD, MULTIPLY) else 1)

        def stage(*inputs: te.Tensor) -> te.Tensor:
            def element(*index: Any) -> Any:
                values = [_at(tensor, index) for tensor in inputs if name != LOOKUP]
                return compute(inputs, index, values, numbers).astype(dtype)

            return te.compute(shape, element, name=name.rpartition(".")[2])

        return builder.call_te(stage, *tensors, primfunc_name_hint=name.rpartition(".")[2])

    register_legalize(full)(legalize)


def _shape(call: relax.Call, tensors: int) -> tuple[int, ...]:
    shapes = [tuple(map(int, argument.ty.shape.values)) for argument in call.args[:tensors]]
    return tuple(map(int, np.broadcast_shapes(*shapes)))


def _at(tensor: te.Tensor, index: Sequence[Any]) -> Any:
    """Return an element of a tensor that is broadcast."""
    shape = [int(extent) for extent in tensor.shape]
    last = index[len(index) - len(shape) :]
    return tensor[tuple(0 if size == 1 else i for i, size in zip(last, shape, strict=True))]


def _requantize(_: Any, __: Any, values: Sequence[Any], numbers: Sequence[Any]) -> Any:
    return Step("requantize").apply(values[0], [values[1], numbers], "int32")


def _quantize(_: Any, __: Any, values: Sequence[Any], numbers: Sequence[Any]) -> Any:
    return quantized(values[0] / numbers[0], numbers[1:], "float32")


def _add(_: Any, __: Any, values: Sequence[Any], numbers: Sequence[Any]) -> Any:
    return Step("add_quantized").apply(values[0], [values[1], numbers], "int32")


def _multiply(_: Any, __: Any, values: Sequence[Any], numbers: Sequence[Any]) -> Any:
    left, right = (value.astype("float32") for value in values)
    product = (left - numbers[0]) * ((right - numbers[1]) * numbers[2])
    return quantized(product, numbers[3:], "float32")


def _lookup(inputs: Sequence[Any], index: Any, _: Any, __: Any) -> Any:
    return inputs[1][inputs[0][tuple(index)].astype("uint8").astype("int32")]


for _name, _compute in {
    REQUANTIZE: _requantize,
    QUANTIZE: _quantize,
    ADD: _add,
    MULTIPLY: _multiply,
    LOOKUP: _lookup,
}.items():
    _register(_name, _compute)
