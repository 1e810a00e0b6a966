"""A compiler pass that computes quantised networks in integers, from DequantizeLinear to Quantize.

Exporters write a quantised layer as float arithmetic between DequantizeLinear and QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mobilenet_tvm.compile.passes import quantized_ops as ops
from mobilenet_tvm.compile.passes.byte_functions import BYTES, evaluate
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import Array, constant, constant_value, op_name, shape_of

#: Smallest and largest values of the types.
RANGES = {"uint8": (0, 255), "int8": (-128, 127)}

#: Operators that only move values, or choose among them.
MOVES = frozenset(
    {
        "expand_dims", "flip", "gather_elements", "nn.max_pool2d", "permute_dims", "reshape",
        "split", "squeeze", "strided_slice", "take", "tile",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Quantized:
    """A tensor of bytes that stands for (values - zero) * scale.

    Parameters
    ----------
    values : Expr
        Of the type in which the network keeps its bytes.
    scale : float
        A float32 number.
    zero : int
        The zero point.
    """

    values: relax.Expr
    scale: np.float32
    zero: int


@dataclass(frozen=True)
class Weights:
    """Constant integers that stand for (values - zero) * scale, all three of one shape."""

    values: Array
    scale: Array
    zero: Array

    def moved(self, move: Callable[[Array], Array]) -> Weights:
        """Return the weights in another shape or order."""
        return Weights(move(self.values), move(self.scale), move(self.zero))


@dataclass(frozen=True)
class Sums:
    """An int32 tensor that stands for clip(products + offset) * scale.

    Parameters
    ----------
    products : Expr
        Sums of products.
    offset : ndarray
        int32, what is added to them; like the scale, it broadcasts to their shape.
    scale : ndarray
        float32.
    low, high : float
        Bounds of what they stand for.
    """

    products: relax.Expr
    offset: Array
    scale: Array
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Pair:
    """The sum or product of two quantised tensors."""

    op: str
    left: Quantized
    right: Quantized
    low: float = -np.inf
    high: float = np.inf


class IntegerLayers(GraphRewriter):
    """Compute what stands between DequantizeLinear and QuantizeLinear in integers, in NCHW.

    Convolutions, dense layers and means become int32 sums that are requantised, sums and products
    of two tensors one operation each, a function of one tensor a table of 256 values, and what
    only moves values moves bytes. Anything else stays float.

    Each float value is computed as before too, from integers where they are known; what nobody
    reads is removed.

    Parameters
    ----------
    mod : IRModule
        The imported network.
    dtype : str
        The type in which the network keeps its bytes: `uint8` or `int8`. Those of the other type
        are shifted by 128, with their zero points.
    """

    def __init__(self, mod: tvm.IRModule, dtype: str) -> None:
        super().__init__(mod)
        self._dtype = dtype
        self._weights: dict[relax.Expr, Weights] = {}
        self._quantized: dict[relax.Expr, Quantized] = {}
        self._sums: dict[relax.Expr, Sums] = {}
        self._pairs: dict[relax.Expr, Pair] = {}
        self._concats: dict[relax.Expr, tuple[list[Quantized], int]] = {}
        #: Constants in another shape, such as float biases.
        self._constants: dict[relax.Expr, Array] = {}
        #: Floats that are functions of one tensor's bytes: the tensor, and the value of each byte.
        self._functions: dict[relax.Expr, tuple[relax.Expr, Array]] = {}
        #: Bytes that are such functions.
        self._tables: dict[relax.Expr, tuple[relax.Expr, Array]] = {}
        #: Bytes of the other type, and the same shifted to this one.
        self._shifted: dict[relax.Expr, relax.Expr] = {}
        self._rules: dict[str, Callable[[relax.Call], relax.Expr | None]] = {
            "quantize": self._quantize,
            "dequantize": self._dequantize,
            "nn.conv2d": self._conv2d,
            "matmul": self._matmul,
            "mean": self._mean,
            "nn.avg_pool2d": self._mean_of_all,
            "concat": self._concat,
            "nn.pad": self._pad,
            **dict.fromkeys(MOVES, self._move),
        }

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Compute a call in integers as well, if its arguments are known to be quantised."""
        rule = self._rules.get(op_name(call), self._elementwise)
        return rule(call)

    # Quantised tensors.

    def _dequantize(self, call: relax.Call) -> relax.Expr | None:
        data, *parameters = call.args
        scale, zero = map(constant_value, parameters)
        if scale is None or zero is None or str(call.attrs.out_dtype) != "float32":
            return None
        values = constant_value(data)
        if values is not None:
            shape = [1] * values.ndim
            if scale.size > 1:
                shape[int(call.attrs.axis)] = scale.size
            # A zero point that is left out is a single one even beside a scale per channel.
            scales, zeros = (
                np.broadcast_to(part.reshape(shape if part.size > 1 else ()), values.shape)
                for part in (scale, zero)
            )
            result = self.emit(call)
            self._weights[result] = Weights(values, scales, zeros)
            return result
        if scale.size > 1 or str(data.ty.dtype) not in RANGES:
            return None
        zero_point = int(zero.reshape(())) + self._shift(str(data.ty.dtype))
        return self._known(
            Quantized(self._bytes(data), np.float32(scale.reshape(())), zero_point), call
        )

    def _known(self, quantized: Quantized, real: relax.Expr | None = None) -> relax.Expr:
        """Return the float value of a quantised tensor, remembering that it is one."""
        scale, zero = quantized.scale, quantized.zero
        if real is None:
            zero_point = constant(np.asarray(zero, self._dtype))
            real = relax.op.dequantize(quantized.values, constant(np.asarray(scale)), zero_point)
        result = self.emit(real)
        self._quantized[result] = quantized
        root, table = self._tables.get(quantized.values, (quantized.values, BYTES[self._dtype]))
        self._functions[result] = root, (table.astype(np.int32) - zero).astype(np.float32) * scale
        return result

    def _quantize(self, call: relax.Call) -> relax.Expr | None:
        data, *parameters = call.args
        dtype = str(call.attrs.out_dtype)
        scale, zero = map(constant_value, parameters)
        if scale is None or zero is None or scale.size > 1 or dtype not in RANGES:
            return None
        step = np.float32(scale.reshape(()))
        zero_point = int(zero.reshape(())) + self._shift(dtype)
        result = self.emit(self._quantized_as(data, step, zero_point))
        if dtype == self._dtype:
            return result
        other = self.emit(self._shift_bytes(result, dtype))
        self._shifted[other] = result
        return other

    def _quantized_as(self, data: relax.Expr, scale: np.float32, zero: int) -> relax.Expr:
        """Return the bytes of a float value for a scale and a zero point."""
        if data in self._sums:
            sums = self._sums[data]
            factor = (sums.scale / scale).astype(np.float32)
            # What is rounded has to be below 2^31; only a useless scale makes it larger than sums.
            if factor.max() <= 1:
                bounds = self._bounds(sums.low, sums.high, scale, zero)
                return ops.requantize(self._total(sums), factor, bounds, zero, self._dtype)
        if data in self._functions:
            root, values = self._functions[data]
            table = self._rounded(values, scale, zero)
            if np.array_equal(table, BYTES[self._dtype]):
                return root
            result = self.emit(ops.lookup(root, table))
            self._tables[result] = root, table
            return result
        if data in self._pairs:
            return self._quantized_pair(self._pairs[data], scale, zero)
        if data in self._concats:
            parts, axis = self._concats[data]
            as_one = [
                self.emit(self._quantized_as(self._known(part), scale, zero)) for part in parts
            ]
            return relax.op.concat(as_one, axis)
        return ops.quantize(data, float(scale), RANGES[self._dtype], zero, self._dtype)

    def _quantized_pair(self, pair: Pair, scale: np.float32, zero: int) -> relax.Expr:
        left, right = pair.left, pair.right
        bounds = self._bounds(pair.low, pair.high, scale, zero)
        if pair.op == "add":
            # As ONNX Runtime does it on x86: the zero point is added before the rounding, and the
            # first product is not rounded.
            one, two = left.scale / scale, right.scale / scale
            second = two * np.float32(right.zero)
            shift = np.float32(float(one) * left.zero + float(second))
            factors = float(one), float(two), float(np.float32(zero) - shift)
            return ops.add(left.values, right.values, factors, bounds)
        numbers = left.zero, right.zero, float(left.scale * right.scale / scale)
        return ops.multiply(left.values, right.values, numbers, bounds, zero)

    def _bounds(self, low: float, high: float, scale: np.float32, zero: int) -> tuple[int, int]:
        """Return the quantised bounds of a value, since rounding keeps the order."""
        edges = self._rounded(np.array([low, high], np.float32), scale, zero)
        return int(edges[0]), int(edges[1])

    def _rounded(self, values: Array, scale: np.float32, zero: int) -> Array:
        """Quantise floats as QuantizeLinear does."""
        whole = np.rint(values / scale) + np.float32(zero)
        return np.clip(whole, *RANGES[self._dtype]).astype(self._dtype)

    def _shift(self, dtype: str) -> int:
        """Return what is added to bytes of a type to keep them in the network's type."""
        return RANGES[self._dtype][0] - RANGES[dtype][0]

    def _bytes(self, data: relax.Expr) -> relax.Expr:
        """Return bytes in the network's type."""
        if str(data.ty.dtype) == self._dtype:
            return data
        if data not in self._shifted:
            self._shifted[data] = self.emit(self._shift_bytes(data, self._dtype))
        return self._shifted[data]

    def _shift_bytes(self, data: relax.Expr, dtype: str) -> relax.Expr:
        """Return bytes of one type shifted to the other: the highest bit is flipped."""
        unsigned = self.emit(relax.op.astype(data, "uint8")) if dtype == "uint8" else data
        flipped = self.emit(relax.op.bitwise_xor(unsigned, constant(np.asarray(128, "uint8"))))
        return flipped if dtype == "uint8" else relax.op.astype(flipped, "int8")

    # Layers.

    def _conv2d(self, call: relax.Call) -> relax.Expr | None:
        data, weights = self._quantized.get(call.args[0]), self._weights.get(call.args[1])
        attrs = call.attrs
        if data is None or weights is None or attrs.data_layout != "NCHW":
            return None
        outputs = weights.values.shape[0]
        scale = _per_output(weights.scale.reshape(outputs, -1))
        if scale is None:
            return None
        integers = self._integers(weights)
        top, left, bottom, right = (int(width) for width in attrs.padding)
        values = data.values
        if top or left or bottom or right:
            widths = [0, 0, 0, 0, top, bottom, left, right]
            values = self.emit(relax.op.nn.pad(values, widths, "constant", float(data.zero)))
        products = relax.op.nn.conv2d(
            values,
            constant(integers),
            strides=attrs.strides,
            dilation=attrs.dilation,
            groups=attrs.groups,
            out_dtype="int32",
        )
        taps = integers.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
        offset = (-data.zero * taps).astype(np.int32).reshape(1, -1, 1, 1)
        return self._sum(
            Sums(self.emit(products), offset, (data.scale * scale).reshape(1, -1, 1, 1))
        )

    def _matmul(self, call: relax.Call) -> relax.Expr | None:
        data, weights = self._quantized.get(call.args[0]), self._weights.get(call.args[1])
        if data is None or weights is None or weights.values.ndim != 2:
            return None
        scale = _per_output(weights.scale.T)
        if scale is None:
            return None
        integers = self._integers(weights)
        products = relax.op.matmul(data.values, constant(integers), out_dtype="int32")
        offset = (-data.zero * integers.sum(axis=0, dtype=np.int64)).astype(np.int32)
        rank = len(shape_of(call.args[0]))
        shape = (1,) * (rank - 1) + (-1,)
        sums = Sums(self.emit(products), offset.reshape(shape), (data.scale * scale).reshape(shape))
        return self._sum(sums)

    def _mean(self, call: relax.Call) -> relax.Expr | None:
        data = self._quantized.get(call.args[0])
        if data is None or call.attrs.axis is None:
            return None
        axes = [int(axis) for axis in call.attrs.axis]
        return self._mean_over(data, axes, bool(call.attrs.keepdims))

    def _mean_of_all(self, call: relax.Call) -> relax.Expr | None:
        """Take an average pooling over the whole picture for a mean."""
        data, attrs = self._quantized.get(call.args[0]), call.attrs
        if data is None or attrs.layout != "NCHW" or any(int(width) for width in attrs.padding):
            return None
        if tuple(map(int, attrs.pool_size)) != shape_of(call.args[0])[2:]:
            return None
        return self._mean_over(data, [2, 3], keepdims=True)

    def _mean_over(self, data: Quantized, axes: Sequence[int], keepdims: bool) -> relax.Expr:
        shape = shape_of(data.values)
        count = int(np.prod([shape[axis] for axis in axes]))
        wide = self.emit(relax.op.astype(data.values, "int32"))
        total = self.emit(relax.op.sum(wide, list(axes), keepdims=keepdims))
        ones = (1,) * len(shape_of(total))
        offset = np.full(ones, -count * data.zero, np.int32)
        scale = np.full(ones, data.scale / np.float32(count), np.float32)
        return self._sum(Sums(total, offset, scale))

    def _integers(self, weights: Weights) -> Array:
        """Return weights less their zero point: int8 where they fit, else int16."""
        values = weights.values.astype(np.int32) - weights.zero.astype(np.int32)
        # NEON adds two products of bytes in 16 bits: 128 * 128 twice is too large for them.
        smallest = RANGES["int8"][0] + (self._dtype == "int8")
        fits = values.min() >= smallest and values.max() <= RANGES["int8"][1]
        return values.astype(np.int8 if fits else np.int16)

    def _sum(self, sums: Sums) -> relax.Expr:
        """Return the float value of sums, remembering what it is made of."""
        real = self.emit(relax.op.astype(self._total(sums), "float32"))
        result = self.emit(relax.op.multiply(real, constant(sums.scale)))
        self._sums[result] = sums
        return result

    def _total(self, sums: Sums) -> relax.Expr:
        if not sums.offset.any():
            return sums.products
        return self.emit(relax.op.add(sums.products, constant(sums.offset)))

    def _with_bias(self, sums: Sums, bias: relax.Expr) -> relax.Expr | None:
        """Return sums with a constant per output added; None if it is none."""
        value, weights = constant_value(bias), self._weights.get(bias)
        value = self._constants.get(bias) if value is None else value
        if weights is not None:
            value = (weights.values.astype(np.int64) - weights.zero) * weights.scale
        if value is None:
            return None
        try:
            shape = np.broadcast_shapes(value.shape, sums.scale.shape)
        except ValueError:
            return None
        if shape != sums.scale.shape:
            return None
        steps = np.rint(value.astype(np.float64) / sums.scale)
        if weights is not None:
            # Its scale is that of the sums, or else what it stands for counts.
            same = np.broadcast_to(weights.scale, shape) == sums.scale
            steps = np.where(same, np.broadcast_to(weights.values - weights.zero, shape), steps)
        if np.abs(steps + sums.offset).max() >= 2**31:
            return None
        offset = (sums.offset + steps.astype(np.int64)).astype(np.int32)
        return self._sum(replace(sums, offset=offset))

    # Everything else.

    def _elementwise(self, call: relax.Call) -> relax.Expr | None:
        name, arguments = op_name(call), list(call.args)
        bounds = _bounds_of(call)
        known = self._sums.get(arguments[0]) or self._pairs.get(arguments[0]) if arguments else None
        if bounds is not None and known is not None:
            result = self.emit(call)
            limited = replace(known, low=max(known.low, bounds[0]), high=min(known.high, bounds[1]))
            kind: dict[relax.Expr, Any] = self._sums if isinstance(limited, Sums) else self._pairs
            kind[result] = limited
            return result
        if name == "add":
            for data, bias in (arguments, arguments[::-1]):
                total = self._with_bias(self._sums[data], bias) if data in self._sums else None
                if total is not None:
                    return total
        if name in ("add", "multiply"):
            pair = [self._quantized.get(argument) for argument in arguments]
            roots = {self._functions[a][0] for a in arguments if a in self._functions}
            if pair[0] and pair[1] and len(roots) == 2:
                return self._pair(call, pair[0], pair[1])
        return self._function(call)

    def _pair(self, call: relax.Call, left: Quantized, right: Quantized) -> relax.Expr | None:
        """Remember a sum or product of two quantised tensors, the larger one first."""
        result = self.emit(call)
        shape = shape_of(result)
        if shape_of(left.values) != shape:
            left, right = right, left
        if shape_of(left.values) == shape:
            self._pairs[result] = Pair(op_name(call), left, right)
        return result

    def _function(self, call: relax.Call) -> relax.Expr | None:
        """Evaluate an element-wise call for each byte, if its arguments depend on one tensor."""
        roots, values, axes = [], [], 0
        for argument in call.args:
            number = constant_value(argument)
            if argument in self._functions:
                root, table = self._functions[argument]
                roots.append(root)
                values.append(table)
            elif number is not None and number.size == 1:
                axes = max(axes, number.ndim)
                values.append(number.reshape(()))
            elif hasattr(argument.ty, "shape"):
                return None
        if not roots or any(not root.same_as(roots[0]) for root in roots):
            return None
        # A constant with more axes gives the result its axes.
        if axes > len(shape_of(roots[0])):
            return None
        of_bytes = evaluate(call, values)
        if of_bytes is None:
            return None
        result = self.emit(call)
        if shape_of(result) == shape_of(roots[0]):
            self._functions[result] = roots[0], of_bytes
        return result

    def _move(self, call: relax.Call) -> relax.Expr | None:
        """Move bytes instead of floats, and weights at once."""
        data, *rest = call.args
        name, value = op_name(call), constant_value(data)
        if value is not None and name == "reshape":
            result = self.emit(call)
            self._constants[result] = value.reshape(shape_of(result))
            return result
        if data in self._weights and name in ("expand_dims", "permute_dims", "reshape", "squeeze"):
            result = self.emit(call)
            shape = shape_of(result)
            axes = getattr(call.attrs, "axes", None) if name == "permute_dims" else None
            order = None if axes is None else [int(axis) for axis in axes]
            self._weights[result] = self._weights[data].moved(
                lambda part: (
                    part.transpose(order) if name == "permute_dims" else part.reshape(shape)
                )
            )
            return result
        if data in self._shifted:
            result = self.emit(call)
            moved = relax.Call(call.op, [self._shifted[data], *rest], call.attrs, call.ty_args)
            self._shifted[result] = self.emit(moved)
            return result
        known = self._quantized.get(data)
        if known is None:
            return None
        moved = self.emit(relax.Call(call.op, [known.values, *rest], call.attrs, call.ty_args))
        if not isinstance(moved.ty, relax.TensorType):
            return None
        return self._known(replace(known, values=moved))

    def _pad(self, call: relax.Call) -> relax.Expr | None:
        known, attrs = self._quantized.get(call.args[0]), call.attrs
        if known is None or attrs.pad_mode != "constant":
            return None
        value = np.float32(attrs.pad_value)
        byte = int(self._rounded(np.asarray(value), known.scale, known.zero))
        if np.float32(byte - known.zero) * known.scale != value:
            return None
        values = known.values
        padded = relax.op.nn.pad(values, list(attrs.pad_width), "constant", float(byte))
        return self._known(replace(known, values=self.emit(padded)))

    def _concat(self, call: relax.Call) -> relax.Expr | None:
        fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
        parts = [self._quantized.get(field) for field in fields]
        if not fields or any(part is None for part in parts):
            return None
        result = self.emit(call)
        self._concats[result] = [part for part in parts if part], int(call.attrs.axis)
        return result


def _per_output(scales: Array) -> Array | None:
    """Return one scale per output; None if those [outputs, inputs] differ within an output."""
    first = scales[:, :1]
    return None if (scales != first).any() else np.ascontiguousarray(first[:, 0])


def _bounds_of(call: relax.Call) -> tuple[float, float] | None:
    """Return the bounds that a call puts on its argument; None if it does something else."""
    name = op_name(call)
    if name == "nn.relu":
        return 0.0, np.inf
    if name == "nn.relu6":
        return 0.0, 6.0
    if name == "clip":
        return float(call.args[1].value), float(call.args[2].value)
    if name in ("maximum", "minimum"):
        number = constant_value(call.args[1])
        rank = len(shape_of(call.args[0]))
        if number is not None and number.size == 1 and number.ndim <= rank:
            bound = float(number.reshape(()))
            return (bound, np.inf) if name == "maximum" else (-np.inf, bound)
    return None
