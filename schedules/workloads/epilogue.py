"""Epilogues: the steps applied to a layer's result before it is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from mobilenet_tvm.schedules.limits import maximum, minimum
from mobilenet_tvm.schedules.workloads.dtypes import Types, lanes_of, vector_type


@dataclass(frozen=True)
class Operand:
    """A tensor that a step reads.

    Parameters
    ----------
    extent : str or int
        `channel` for one value per channel, `tensor` for the output's shape, or a length.
    kind : str
        `float32`, or the field of `Types` that has its type: `weights`, `sums` or `result`.
    """

    extent: str | int
    kind: str = "weights"

    def dtype(self, types: Types) -> str:
        """Return its type in a layer of some types; integer layers add integers to their sums."""
        if self.kind == "float32":
            return self.kind
        if self.kind == "weights" and types.integer:
            return types.sums
        return str(getattr(types, self.kind))

    def shape(self, output: Sequence[int]) -> tuple[int, ...]:
        """Return its shape, given the output's shape, channels last."""
        if self.extent == "tensor":
            return tuple(output)
        return (output[-1],) if self.extent == "channel" else (int(self.extent),)


#: The operands of each step, in the order of the function's arguments.
OPERANDS: dict[str, tuple[Operand, ...]] = {
    "add_channel": (Operand("channel"),),
    "mul_channel": (Operand("channel"),),
    "add": (Operand("tensor"),),
    "mul": (Operand("tensor"),),
    "relu": (),
    "clip": (),
    "hard_swish": (),
    "hard_sigmoid": (),
    "sigmoid": (),
    "silu": (),
    "gelu": (),
    "tanh": (),
    "elu": (),
    "softplus": (),
    "mish": (),
    "leaky_relu": (),
    "prelu": (Operand("channel"),),
    "requantize": (Operand("channel", "float32"), Operand(3, "float32")),
    "add_quantized": (Operand("tensor", "result"), Operand(6, "float32")),
    "add_quantized_second": (Operand("tensor", "result"), Operand(6, "float32")),
    "lookup": (Operand(256, "result"),),
    "dequantize": (Operand("channel", "float32"),),
}
#: Steps that read a tensor of the output's shape.
TENSOR_STEPS = frozenset(
    op for op, operands in OPERANDS.items() if any(o.extent == "tensor" for o in operands)
)
#: Steps whose exponentials exceed float16 where their results do not: in it they would be NaN, or
#: lose digits.
SMOOTH = frozenset({"sigmoid", "silu", "gelu", "tanh", "elu", "softplus", "mish"})
#: Steps that end in a rounding, and whose last operand ends in `quantization_bounds`.
ROUNDING = ("requantize", "add_quantized", "add_quantized_second")
#: Number of values of the steps that have any.
_VALUES = {"clip": 2, "leaky_relu": 1}

#: Adding it to a number below 2^22 in magnitude rounds that to an integer, half to even, whose
#: bits are the sum's last ones (source: Agner Fog, Optimizing software in C++, section 14.5).
MAGIC = 12582912.0


@dataclass(frozen=True)
class Step:
    """One operation on a layer's result.

    Parameters
    ----------
    op : str
        In float layers, `add_channel`, `mul_channel` and `prelu` take a vector of one value per
        channel, `add` and `mul` a tensor like the output, the others none. In integer layers,
        `requantize` turns sums into quantised values, `add_quantized` adds a quantised tensor,
        `add_quantized_second` adds the values to one, `lookup` maps values by a table, and
        `dequantize` makes sums float32.
    values : tuple of float
        Lower and upper bound of `clip`, slope of `leaky_relu`.
    """

    op: str
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the step as logs write it: `clip(0,6)`."""
        return f"{self.op}({','.join(f'{v:g}' for v in self.values)})" if self.values else self.op

    @staticmethod
    def parse(text: str) -> Step:
        """Read a step back from its text.

        Raises
        ------
        ValueError
            If no step has this text.
        """
        op, _, values = text.partition("(")
        step = Step(op, tuple(map(float, values.rstrip(")").split(","))) if values else ())
        if op not in OPERANDS or _VALUES.get(op, 0) != len(step.values):
            raise ValueError(f"unknown epilogue step {text!r}")
        return step

    def apply(self, x: Any, operands: Sequence[Any] = (), dtype: str = "float32") -> Any:
        """Return the expression of the step's result.

        Parameters
        ----------
        x : Expr
            The value that the step is applied to; several, if it is a vector.
        operands : sequence of Expr
            The elements of the step's tensors. Those of an operand of a fixed length are a
            function of the index, such as the tensor itself.
        dtype : str
            The type of `x`.
        """
        if self.op in SMOOTH and dtype.startswith("float16"):
            wide = vector_type("float32", lanes_of(dtype))
            return self.apply(x.astype(wide), dtype=wide).astype(dtype)

        def number(value: float) -> Any:
            return spread(tirx.const(value, dtype.partition("x")[0]), dtype)

        def clipped(value: Any, low: float, high: float) -> Any:
            return minimum(maximum(value, number(low), dtype), number(high), dtype)

        match self.op:
            case "add_channel" | "add":
                return x + operands[0]
            case "mul_channel" | "mul":
                return x * operands[0]
            case "relu":
                return maximum(x, number(0.0), dtype)
            case "clip":
                return clipped(x, *self.values)
            case "hard_sigmoid":
                return clipped(x * number(1 / 6) + number(0.5), 0.0, 1.0)
            case "hard_swish":
                return x * clipped(x + number(3.0), 0.0, 6.0) * number(1 / 6)
            case "sigmoid":
                return number(1.0) / (number(1.0) + tirx.exp(-x))
            case "silu":
                return x / (number(1.0) + tirx.exp(-x))
            case "gelu":
                return number(0.5) * x * (number(1.0) + tirx.erf(x * number(math.sqrt(0.5))))
            case "tanh":
                return tirx.tanh(x)
            case "elu":
                negative = tirx.exp(minimum(x, number(0.0), dtype)) - number(1.0)
                return tirx.Select(x < number(0.0), negative, x)
            case "softplus":
                rest = tirx.log(number(1.0) + tirx.exp(number(0.0) - tirx.abs(x)))
                return maximum(x, number(0.0), dtype) + rest
            case "mish":
                # tanh(log(1 + e)) is n / (n + 2) with n = e (e + 2); from 20 on, 1 in float32.
                e = tirx.exp(minimum(x, number(20.0), dtype))
                n = e * (e + number(2.0))
                return x * (n / (n + number(2.0)))
            case "leaky_relu":
                return tirx.Select(x < number(0.0), x * number(self.values[0]), x)
            case "prelu":
                return tirx.Select(x < number(0.0), x * operands[0], x)
            case "requantize" | "add_quantized" | "add_quantized_second":
                numbers, wide = operands[-1], vector_type("float32", lanes_of(dtype))
                first = 0 if self.op == "requantize" else 3
                bounds = [numbers[i] for i in range(first, first + 3)]
                return quantized(self.scaled(x, operands, dtype), bounds, wide)
            case "lookup":
                return operands[0][x & spread(tirx.const(255, "int32"), dtype)]
            case "dequantize":
                return as_float(x, dtype) * operands[0]
        raise ValueError(f"unknown epilogue step {self.op}")

    def scaled(self, x: Any, operands: Sequence[Any], dtype: str) -> Any:
        """Return the float32 value that a step of `ROUNDING` rounds; arguments as of `apply`."""
        real = as_float(x, dtype)
        if self.op == "requantize":
            return real * operands[0]
        other, numbers = as_float(operands[0], dtype), operands[1]
        first, second = (real, other) if self.op == "add_quantized" else (other, real)
        wide = vector_type("float32", lanes_of(dtype))
        factor, second_factor, offset = (spread(numbers[i], wide) for i in range(3))
        # In this order, with multiply-adds, the sum is that of ONNX Runtime on x86 to the bit.
        return first * factor + (second * second_factor + offset)


def as_float(x: Any, dtype: str) -> Any:
    """Return integers of some type, or a vector of them, as float32."""
    return x.astype(vector_type("float32", lanes_of(dtype)))


def spread(value: Any, dtype: str) -> Any:
    """Return a scalar as a vector of a type, or as it is if the type is a scalar's."""
    lanes = lanes_of(dtype)
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def quantized(x: Any, bounds: Sequence[Any], dtype: str) -> Any:
    """Return round(clamp(x, low, high)) + zero as int32.

    ONNX Runtime and XNNPACK quantise so: half to even, with bounds relative to the zero point.

    Parameters
    ----------
    x : Expr
        float32, or a vector of it.
    bounds : sequence of Expr
        The values of `quantization_bounds`.
    dtype : str
        The type of `x`.
    """
    integer = vector_type("int32", lanes_of(dtype))
    low, high, magic = bounds
    clamped = tirx.min(tirx.max(x, spread(low, dtype)), spread(high, dtype))
    rounded = clamped + spread(tirx.const(MAGIC, "float32"), dtype)
    return tirx.reinterpret(integer, rounded) - spread(tirx.reinterpret("int32", magic), integer)


def quantization_bounds(low: int, high: int, zero: int) -> tuple[float, float, float]:
    """Return the numbers that `requantize` reads, for values from low to high and a zero point."""
    # The difference of the last number's bits and those of MAGIC is the zero point.
    return float(low - zero), float(high - zero), MAGIC - zero


Epilogue = tuple[Step, ...]


def residuals(epilogue: Epilogue) -> int:
    """Return how many tensors of the output's shape an epilogue reads."""
    return sum(step.op in TENSOR_STEPS for step in epilogue)
