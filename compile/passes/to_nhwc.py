"""A compiler pass that converts activations to NHWC, so that channels are contiguous."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from mobilenet_tvm.compile.passes.quantized_ops import ADD, LOOKUP, MULTIPLY, QUANTIZE, REQUANTIZE
from mobilenet_tvm.compile.passes.recognize_hard import HARD_SIGMOID, HARD_SWISH
from mobilenet_tvm.compile.passes.recognize_smooth import ELU, MISH, SOFTPLUS
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import constant, constant_value, op_name, shape_of

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

#: Element-wise operators whose tensor arguments all have the same layout.
ELEMENTWISE = frozenset(
    {
        "abs", "add", "clip", "divide", "erf", "exp", "maximum", "minimum", "multiply",
        "negative", "nn.gelu", "nn.leakyrelu", "nn.relu", "nn.relu6", "nn.silu", "power", "round",
        "sigmoid", "sqrt", "square", "subtract", "tanh", "astype", "bitwise_xor", HARD_SIGMOID,
        HARD_SWISH, ELU, MISH, SOFTPLUS, ADD, MULTIPLY, REQUANTIZE,
    }
)  # fmt: skip


class ToNHWC(GraphRewriter):
    """Rewrite convolutions, pooling and the operators between them to NHWC; weights become HWIO.

    Each NCHW value is tracked together with its NHWC form. The NCHW form is computed only if an
    operator that this pass does not know reads it, so no layout changes are left inside the
    network, and transposes added by an exporter cancel.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        # NCHW value -> the same value in NHWC.
        self._nhwc: dict[relax.Expr, relax.Expr] = {}
        # Value with the channels of an NCHW value split into several axes.
        self._split: dict[relax.Expr, _Split] = {}
        self._rules: dict[str, Callable[[relax.Call], relax.Expr | None]] = {
            "nn.conv2d": self._conv2d,
            "nn.avg_pool2d": self._pool2d,
            "nn.max_pool2d": self._pool2d,
            "nn.pad": self._pad,
            "nn.prelu": self._prelu,
            "concat": self._concat,
            "mean": self._reduce,
            "max": self._reduce,
            "sum": self._reduce,
            "permute_dims": self._permute,
            "reshape": self._reshape,
            "squeeze": self._reshape,
            "strided_slice": self._slice,
            "take": self._take,
            "quantize": self._quantize,
            "dequantize": self._quantize,
            LOOKUP: self._lookup,
            QUANTIZE: self._quantize_image,
        }

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Convert a call to NHWC; an unknown operator still gets NCHW arguments."""
        name = op_name(call)
        rule = self._elementwise if name in ELEMENTWISE else self._rules.get(name)
        return None if rule is None else rule(call)

    def _defer(self, nhwc: relax.Expr) -> relax.Expr:
        """Bind a value in NHWC and return the variable that represents it in NCHW.

        The returned permutation is dead code, and removed, unless it is read.
        """
        inner = self.emit(nhwc)
        outer = self.emit(relax.op.permute_dims(inner, TO_NCHW))
        self._nhwc[outer] = inner
        return outer

    def _as_nhwc(self, expr: relax.Expr) -> relax.Expr:
        if expr not in self._nhwc:
            value = constant_value(expr)
            if value is not None:
                return constant(value.transpose(TO_NHWC))
            self._nhwc[expr] = self.emit(relax.op.permute_dims(expr, TO_NHWC))
        return self._nhwc[expr]

    def _conv2d(self, call: relax.Call) -> relax.Expr | None:
        attrs = call.attrs
        weight = constant_value(call.args[1])
        if attrs.data_layout != "NCHW" or attrs.kernel_layout != "OIHW":
            return None
        kernel = (
            relax.op.permute_dims(call.args[1], (2, 3, 1, 0))
            if weight is None
            else constant(weight.transpose(2, 3, 1, 0))
        )
        return self._defer(
            relax.op.nn.conv2d(
                self._as_nhwc(call.args[0]),
                self.emit(kernel),
                strides=attrs.strides,
                padding=attrs.padding,
                dilation=attrs.dilation,
                groups=attrs.groups,
                data_layout="NHWC",
                kernel_layout="HWIO",
                out_dtype=attrs.out_dtype or None,
            )
        )

    def _pool2d(self, call: relax.Call) -> relax.Expr | None:
        attrs = call.attrs
        if attrs.layout != "NCHW":
            return None
        build = relax.op.nn.avg_pool2d if "avg" in op_name(call) else relax.op.nn.max_pool2d
        return self._defer(
            build(
                self._as_nhwc(call.args[0]),
                pool_size=attrs.pool_size,
                strides=attrs.strides,
                padding=attrs.padding,
                dilation=attrs.dilation,
                ceil_mode=attrs.ceil_mode,
                count_include_pad=attrs.count_include_pad,
                layout="NHWC",
            )
        )

    def _pad(self, call: relax.Call) -> relax.Expr | None:
        attrs = call.attrs
        if len(attrs.pad_width) != 8 or call.args[0] not in self._nhwc:
            return None
        pairs = np.array([int(width) for width in attrs.pad_width]).reshape(4, 2)
        widths = pairs[list(TO_NHWC)].reshape(-1).tolist()
        return self._defer(
            relax.op.nn.pad(
                self._as_nhwc(call.args[0]), widths, attrs.pad_mode, float(attrs.pad_value)
            )
        )

    def _prelu(self, call: relax.Call) -> relax.Expr | None:
        data, slope = call.args
        axis = int(call.attrs.axis) % len(shape_of(data))
        if data not in self._nhwc or axis != 1:
            return None
        return self._defer(relax.op.nn.prelu(self._as_nhwc(data), slope, axis=3))

    def _elementwise(self, call: relax.Call) -> relax.Expr | None:
        tensors = [arg for arg in call.args if hasattr(arg.ty, "shape")]
        if not any(arg in self._nhwc for arg in tensors):
            return None
        args = []
        for arg in call.args:
            if not hasattr(arg.ty, "shape") or shape_of(arg) in ((), (0,)):
                args.append(arg)
            elif len(shape_of(arg)) == 4:
                args.append(self._as_nhwc(arg))
            elif (value := constant_value(arg)) is not None and value.ndim < 4:
                full = value.reshape((1,) * (4 - value.ndim) + value.shape)
                args.append(constant(full.transpose(TO_NHWC)))
            else:
                return None
        return self._defer(relax.Call(call.op, args, call.attrs, call.ty_args))

    def _quantize(self, call: relax.Call) -> relax.Expr | None:
        data, scale, zero = call.args
        if data not in self._nhwc:
            return None
        axis = int(call.attrs.axis) % 4
        build = relax.op.quantize if op_name(call) == "quantize" else relax.op.dequantize
        return self._defer(
            build(
                self._as_nhwc(data),
                scale,
                zero,
                axis=TO_NHWC.index(axis),
                out_dtype=call.attrs.out_dtype,
            )
        )

    def _quantize_image(self, call: relax.Call) -> relax.Expr | None:
        """Quantise in NHWC even what comes in NCHW: a stem reads the image itself."""
        data, *numbers = call.args
        if len(shape_of(data)) != 4:
            return None
        return self._defer(relax.Call(call.op, [self._as_nhwc(data), *numbers]))

    def _lookup(self, call: relax.Call) -> relax.Expr | None:
        data, *tables = call.args
        if data not in self._nhwc:
            return None
        return self._defer(relax.Call(call.op, [self._as_nhwc(data), *tables]))

    def _take(self, call: relax.Call) -> relax.Expr | None:
        """Take rows, columns or channels, as resizing does."""
        data, indices = call.args
        every = self._every(call)
        if every is not None:
            return every
        if data not in self._nhwc or len(shape_of(indices)) != 1:
            return None
        axis = TO_NHWC.index(int(call.attrs.axis) % 4)
        return self._defer(relax.op.take(self._as_nhwc(data), indices, axis, call.attrs.mode))

    def _every(self, call: relax.Call) -> relax.Expr | None:
        """Take every n-th channel: of channels split into [rest, n], n was moved to the front.

        So ShuffleNet divides its channels. Parts of a concatenation are divided each for itself.
        """
        last = self.producer(call.args[0], "reshape")
        moved = None if last is None else self.producer(last.args[0], "permute_dims")
        split = None if moved is None else self.producer(moved.args[0], "reshape")
        place = constant_value(call.args[1])
        if last is None or moved is None or split is None or split.args[0] not in self._nhwc:
            return None
        if place is None or place.ndim or len(shape_of(split)) != 3:
            return None
        batch, channels, height, width = shape_of(split.args[0])
        rest, step, _ = shape_of(split)
        if (batch, channels) != (1, rest * step) or not 0 <= int(place) < step:
            return None
        axes = [int(axis) for axis in moved.attrs.axes or ()]
        shapes = shape_of(split)[2], shape_of(last), axes, int(call.attrs.axis)
        if shapes != (height * width, (step, 1, rest, height, width), [1, 0, 2], 0):
            return None
        data = self._nhwc[split.args[0]]
        joined = self.producer(data, "concat")
        parts = (
            [data] if joined is None or int(joined.attrs.axis) != 3 else [*joined.args[0].fields]
        )
        if any(shape_of(part)[3] % step for part in parts):
            parts = [data]
        taken = [
            self.emit(relax.op.strided_slice(part, [3], [int(place)], [shape_of(part)[3]], [step]))
            for part in parts
        ]
        return self._defer(relax.op.concat(taken, 3) if len(taken) > 1 else taken[0])

    def _slice(self, call: relax.Call) -> relax.Expr | None:
        data, axes, *bounds = call.args
        if data not in self._nhwc or not isinstance(axes, relax.Tuple):
            return None
        moved = [TO_NHWC.index(int(axis) % 4) for axis in axes.fields]
        sliced = relax.op.strided_slice(
            self._as_nhwc(data), moved, *bounds, assume_inbound=bool(call.attrs.assume_inbound)
        )
        return self._defer(sliced)

    def _concat(self, call: relax.Call) -> relax.Expr | None:
        fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
        if not any(field in self._nhwc for field in fields):
            return None
        axis = TO_NHWC.index(int(call.attrs.axis) % 4)
        return self._defer(relax.op.concat([self._as_nhwc(field) for field in fields], axis))

    def _reduce(self, call: relax.Call) -> relax.Expr | None:
        data = call.args[0]
        if data not in self._nhwc or call.attrs.axis is None:
            return None
        axes = sorted(int(axis) % 4 for axis in call.attrs.axis)
        keep = bool(call.attrs.keepdims)
        if not keep and axes != [2, 3]:
            return None
        build = {"mean": relax.op.mean, "max": relax.op.max, "sum": relax.op.sum}[op_name(call)]
        reduced = build(self._as_nhwc(data), [TO_NHWC.index(axis) for axis in axes], keepdims=keep)
        # Without spatial axes, [N, C] is the same in both layouts.
        return self._defer(reduced) if keep else reduced

    def _permute(self, call: relax.Call) -> relax.Expr | None:
        data = call.args[0]
        axes = tuple(int(axis) for axis in call.attrs.axes or ())
        if axes == TO_NCHW:
            outer = self.emit(call)
            self._nhwc[outer] = data
            return outer
        if axes == TO_NHWC and data in self._nhwc:
            return self._nhwc[data]
        if data in self._split and axes:
            split, outer = self._split[data], self.emit(call)
            order = tuple(split.order[axis] for axis in axes)
            self._split[outer] = replace(split, order=order)
            return outer
        return None

    def _reshape(self, call: relax.Call) -> relax.Expr | None:
        data, shape = call.args[0], shape_of(self.builder.normalize(call))
        if data in self._split:
            return self._merge(self._split[data], shape)
        if data not in self._nhwc:
            return None
        batch, channels, height, width = shape_of(data)
        if len(shape) > 4 and (shape[0], *shape[-2:]) == (batch, height, width):
            outer = self.emit(call)
            self._split[outer] = _Split(self._nhwc[data], shape[1:-2], tuple(range(len(shape))))
            return outer
        # With one pixel, or one channel, both layouts hold the same sequence of numbers.
        if height * width != 1 and channels != 1:
            return None
        return relax.op.reshape(self._nhwc[data], shape)

    def _merge(self, split: _Split, shape: tuple[int, ...]) -> relax.Expr | None:
        """Merge axes to NCHW: shuffled channels, or channels that became rows and columns."""
        batch, height, width, _ = shape_of(split.nhwc)
        sizes = (batch, *split.factors, height, width)
        groups = _groups([sizes[axis] for axis in split.order], shape)
        if len(shape) != 4 or groups is None or split.order[0] != 0 or groups[0] != [0]:
            return None
        # Where the axes are with the channels last.
        count = len(split.factors)
        places = {0: 0, count + 1: 1, count + 2: 2} | {i + 1: i + 3 for i in range(count)}
        order = [places[split.order[i]] for axis in TO_NHWC for i in groups[axis]]
        full = self.emit(relax.op.reshape(split.nhwc, (batch, height, width, *split.factors)))
        moved = self.emit(relax.op.permute_dims(full, order))
        return self._defer(relax.op.reshape(moved, [shape[axis] for axis in TO_NHWC]))


@dataclass(frozen=True)
class _Split:
    """A value whose channels were split, and whose axes were permuted then.

    Parameters
    ----------
    nhwc : Expr
        The value before, in NHWC.
    factors : tuple of int
        What its channels were split into.
    order : tuple of int
        The axes: batch, those of the channels, rows and columns are numbered in this order.
    """

    nhwc: relax.Expr
    factors: tuple[int, ...]
    order: tuple[int, ...]


def _groups(sizes: Sequence[int], shape: Sequence[int]) -> list[list[int]] | None:
    """Return which consecutive axes are merged to each axis of a shape, or None."""
    groups: list[list[int]] = []
    axis = 0
    for extent in shape:
        group: list[int] = []
        product = 1
        while axis < len(sizes) and (product < extent or not group):
            group.append(axis)
            product *= sizes[axis]
            axis += 1
        if product != extent:
            return None
        groups.append(group)
    # What is left over must be single.
    rest = list(range(axis, len(sizes)))
    if any(sizes[i] != 1 for i in rest):
        return None
    groups[-1] += rest
    return groups
