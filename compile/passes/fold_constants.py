"""A compiler pass that evaluates operators whose arguments are all constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import constant, constant_value, op_name, shape_of

Array = np.ndarray[Any, Any]


class FoldConstants(GraphRewriter):
    """Evaluate with NumPy the operators that exporters leave between a weight and its use.

    TVM's own FoldConstant compiles each call with LLVM, which takes about 35 ms: 6.6 s for
    MobileNetV3-Large as imported. It remains the fallback for operators not listed here.
    """

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Replace a known call on constants by its value."""
        evaluate = _EVALUATE.get(op_name(call))
        if evaluate is None:
            return None
        tensors = [arg for arg in call.args if not isinstance(arg, relax.ShapeExpr)]
        values = [constant_value(tensor) for tensor in tensors]
        if any(value is None for value in values):
            return None
        result = self.builder.normalize(call)
        return constant(
            np.asarray(evaluate(result, *values), str(result.ty.dtype)).reshape(shape_of(result))
        )


def _dequantize(call: relax.Call, data: Array, scale: Array, zero: Array) -> Array:
    """Return (data - zero) * scale, per tensor or along the call's axis."""

    def along_axis(array: Array) -> Array:
        # One zero point may serve several scales: the importer writes 0 for one that is left out.
        shape = [1] * data.ndim
        if array.size > 1:
            shape[int(call.attrs.axis)] = array.size
        return array.reshape(shape)

    centred = data.astype(np.int32) - along_axis(zero.astype(np.int32))
    return centred.astype(np.float32) * along_axis(scale)


def _pad(call: relax.Call, data: Array) -> Array:
    """Pad with a number; the importer writes no other mode."""
    widths = np.array([int(width) for width in call.attrs.pad_width]).reshape(-1, 2)
    return np.pad(data, widths, constant_values=call.attrs.pad_value)


_EVALUATE: dict[str, Callable[..., Array]] = {
    "add": lambda _, a, b: a + b,
    "astype": lambda _, a: a,
    "broadcast_to": lambda call, a: np.broadcast_to(a, shape_of(call)),
    "dequantize": _dequantize,
    "divide": lambda _, a, b: a / b,
    "expand_dims": lambda _, a: a,
    "flip": lambda call, a: np.flip(a, int(call.attrs.axis)),
    "multiply": lambda _, a, b: a * b,
    "nn.pad": _pad,
    "permute_dims": lambda call, a: a.transpose(
        None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
    ),
    "reshape": lambda _, a: a,
    "sqrt": lambda _, a: np.sqrt(a),
    "squeeze": lambda _, a: a,
    "subtract": lambda _, a, b: a - b,
}
