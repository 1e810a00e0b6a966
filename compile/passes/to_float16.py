"""A compiler pass that lets layers, and what is between them, keep their values in float16."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from mobilenet_tvm.compile.passes.lower_layers import has_schedule
from mobilenet_tvm.compile.passes.recognize_hard import HARD_SIGMOID, HARD_SWISH
from mobilenet_tvm.compile.passes.rewriter import (
    GraphRewriter,
    constant,
    constant_value,
    op_name,
    straight_line,
)
from mobilenet_tvm.targets.errors import UserError

#: Operators that neither add many values up nor grow fast: float16 stays float16.
_KEEP = frozenset(
    {
        "add", "clip", "concat", "divide", "expand_dims", "maximum", "minimum", "multiply",
        "negative", "nn.leakyrelu", "nn.max_pool2d", "nn.pad", "nn.relu", "nn.relu6",
        "permute_dims", "reshape", "sigmoid", "squeeze", "strided_slice", "subtract", "tanh",
        HARD_SIGMOID, HARD_SWISH,
    }
)  # fmt: skip


class ToFloat16(GraphRewriter):
    """Convert weights to float16, and values where a layer with a schedule reads them.

    Inputs and outputs of the network stay float32, and so does what comes before the first layer.
    An operator that is not known to be safe computes in float32.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        bindings = [b for block in straight_line(mod["main"]).blocks for b in block.bindings]
        self._layers = {binding.var for binding in bindings if has_schedule(binding.value)}
        self._casts: dict[tuple[relax.Expr, str], relax.Expr] = {}

    def visit_binding(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """Convert the arguments of a call to the type that it computes in."""
        if not isinstance(value, relax.Call):
            return None
        if var in self._layers:
            dtype = "float16"
        elif not any(_is(argument, "float16") for argument in _tensors(value.args)):
            return None
        else:
            dtype = "float16" if op_name(value) in _KEEP else "float32"
        arguments = [self._cast(argument, dtype) for argument in value.args]
        return relax.Call(value.op, arguments, value.attrs, value.ty_args)

    def result(self, value: relax.Expr) -> relax.Expr:
        """Return outputs in float32, as the model says."""
        value = super().result(value)
        if isinstance(value.ty, relax.TupleType):
            places = range(len(value.ty.fields))
            value = relax.Tuple([self.emit(relax.TupleGetItem(value, place)) for place in places])
        return self._cast(value, "float32")

    def _cast(self, value: relax.Expr, dtype: str) -> relax.Expr:
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._cast(field, dtype) for field in value.fields])
        if not (_is(value, "float32") or _is(value, "float16")) or _is(value, dtype):
            return value
        array = constant_value(value)
        if array is not None:
            return _as_float16(array)
        key = (value, dtype)
        if key not in self._casts:
            self._casts[key] = self.emit(relax.op.astype(value, dtype))
            self._casts[self._casts[key], str(value.ty.dtype)] = value
        return self._casts[key]


def _as_float16(array: np.ndarray) -> relax.Expr:
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise UserError(
            f"the network has a constant of {largest:.6g}, and float16 ends at 65504; "
            "compile it with --dtype float32"
        )
    return constant(array.astype(np.float16))


def _tensors(values: list[relax.Expr]) -> list[relax.Expr]:
    return [
        tensor
        for value in values
        for tensor in (value.fields if isinstance(value, relax.Tuple) else [value])
    ]


def _is(value: relax.Expr, dtype: str) -> bool:
    return isinstance(value.ty, relax.TensorType) and str(value.ty.dtype) == dtype
