"""A compiler pass that sets the type of the values in layers and between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from mobilenet_tvm.compile.passes.heads import DTYPES, head_of
from mobilenet_tvm.compile.passes.recognize_hard import HARD_SIGMOID, HARD_SWISH
from mobilenet_tvm.compile.passes.recognize_smooth import ELU, MISH, SOFTPLUS
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import bindings_of, constant, constant_value, op_name
from mobilenet_tvm.targets.errors import UserError

#: Operators that neither accumulate many values nor grow fast, so they are safe in float16.
_KEEP = frozenset(
    {
        "add", "clip", "concat", "divide", "expand_dims", "maximum", "minimum", "multiply",
        "negative", "nn.leakyrelu", "nn.max_pool2d", "nn.pad", "nn.relu", "nn.relu6",
        "permute_dims", "reshape", "squeeze", "strided_slice", "subtract",
        HARD_SIGMOID, HARD_SWISH,
    }
)  # fmt: skip


#: Functions that CPUs compute in float32 on each value as it is stored.
_SMOOTH = frozenset({"nn.gelu", "nn.silu", "sigmoid", "tanh", ELU, MISH, SOFTPLUS})


class SetDtype(GraphRewriter):
    """Set the type of weights and values in layers with a schedule, whatever the model's own types.

    Operators before the first layer, and the types of inputs and outputs, are unchanged. Operators
    that are not known to be safe compute in float32.

    Parameters
    ----------
    mod : IRModule
        The network, with graph operators in NHWC.
    dtype : str
        `float32` or `float16`.
    smooth : bool
        Whether sigmoid and its like take and return this type, so that they can be part of layers.
    """

    def __init__(self, mod: tvm.IRModule, dtype: str, smooth: bool = False) -> None:
        super().__init__(mod)
        self._dtype = dtype
        self._keep = _KEEP | _SMOOTH if smooth else _KEEP
        bindings = bindings_of(mod["main"])
        self._layers = {binding.var for binding in bindings if head_of(binding.value)}
        self._casts: dict[tuple[relax.Expr, str], relax.Expr] = {}

    def visit_binding(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """Convert the arguments of a call to the type in which it computes."""
        if not isinstance(value, relax.Call):
            return None
        name = op_name(value)
        if name == "astype":
            cast = str(value.attrs.dtype)
            return value.args[0] if _is(value.args[0], cast) else None
        if var in self._layers:
            dtype = self._dtype
        elif not any(_is(tensor, self._dtype) for tensor in _variables(value.args)):
            return None
        else:
            dtype = self._dtype if name in self._keep else "float32"
        arguments = [self._cast(argument, dtype) for argument in value.args]
        return relax.Call(value.op, arguments, value.attrs, value.ty_args)

    def result(self, value: relax.Expr) -> relax.Expr:
        """Return the outputs in the types of the model."""
        value, type_ = super().result(value), self.mod["main"].ret_ty
        if not isinstance(type_, relax.TupleType):
            return self._cast(value, str(type_.dtype))
        fields = [
            self._cast(self.emit(relax.TupleGetItem(value, place)), str(field.dtype))
            for place, field in enumerate(type_.fields)
        ]
        return relax.Tuple(fields)

    def _cast(self, value: relax.Expr, dtype: str) -> relax.Expr:
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._cast(field, dtype) for field in value.fields])
        if _is(value, dtype) or not any(_is(value, float_) for float_ in DTYPES):
            return value
        array = constant_value(value)
        if array is not None:
            return _converted(array, dtype)
        key = (value, dtype)
        if key not in self._casts:
            self._casts[key] = self.emit(relax.op.astype(value, dtype))
            self._casts[self._casts[key], str(value.ty.dtype)] = value
        return self._casts[key]


def _converted(array: np.ndarray, dtype: str) -> relax.Expr:
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
    if largest > float(np.finfo(dtype).max):
        raise UserError(
            f"the network has a constant of {largest:.6g}, which exceeds the {dtype} maximum of "
            f"{np.finfo(dtype).max:.0f}; compile with --dtype float32"
        )
    return constant(array.astype(dtype))


def _variables(values: Sequence[relax.Expr]) -> list[relax.Expr]:
    """Return the arguments, and fields of tuples among them, that are not constants."""
    tensors = [
        tensor
        for value in values
        for tensor in (value.fields if isinstance(value, relax.Tuple) else [value])
    ]
    return [tensor for tensor in tensors if constant_value(tensor) is None]


def _is(value: relax.Expr, dtype: str) -> bool:
    return isinstance(value.ty, relax.TensorType) and str(value.ty.dtype) == dtype
