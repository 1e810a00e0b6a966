"""Helpers of the passes for Relax values: operators, constants, shapes, uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]


def straight_line(func: relax.Function) -> relax.SeqExpr:
    """Return the body of a function, which must be a single block of bindings."""
    body = func.body
    bindings = [binding for block in body.blocks for binding in block.bindings]
    if len(body.blocks) > 1 or any(isinstance(b.value, relax.If) for b in bindings):
        raise UserError(
            "the network has control flow (If, Loop or Scan); export an inference graph without it"
        )
    return body


def bindings_of(func: relax.Function) -> list[relax.VarBinding]:
    """Return the bindings of a function, which must be a single block of them, in order."""
    return [binding for block in straight_line(func).blocks for binding in block.bindings]


def op_name(call: relax.Call) -> str:
    """Return the operator's name without the `relax.` prefix, or '' for other callees."""
    return call.op.name.removeprefix("relax.") if isinstance(call.op, tvm.ir.Op) else ""


def constant(array: Array) -> GenericConst:
    """Return an array as a Relax constant."""
    # NumPy's function makes a number an array of one axis; TVM would narrow a 64-bit number.
    return relax.const(np.ascontiguousarray(array).reshape(np.shape(array)), str(array.dtype))


def constant_value(expr: relax.Expr) -> Array | None:
    """Return a constant's array, or None for anything that is not a constant."""
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """Return the static shape of a tensor expression."""
    return tuple(int(extent) for extent in expr.ty.shape.values)


def count_uses(func: relax.Function) -> Counter[relax.Var]:
    """Return how often each variable of a function is read."""
    values = [binding.value for block in func.body.blocks for binding in block.bindings]
    return Counter(var for value in (*values, func.body.body) for var in _reads(value))


def _reads(value: relax.Expr) -> Iterator[relax.Var]:
    """Yield the variables in a bound value, once per occurrence."""
    if isinstance(value, relax.Var):
        yield value
    elif isinstance(value, relax.Call):
        for arg in value.args:
            yield from _reads(arg)
    elif isinstance(value, relax.Tuple):
        for field in value.fields:
            yield from _reads(field)
    elif isinstance(value, relax.TupleGetItem):
        yield from _reads(value.tuple_value)
