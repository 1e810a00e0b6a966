"""A compiler pass that changes layouts before a resize instead of behind it."""

from __future__ import annotations

import math
from collections import Counter

import tvm
from tvm import relax

from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.to_nhwc import ELEMENTWISE
from mobilenet_tvm.compile.passes.values import (
    bindings_of,
    constant,
    constant_value,
    count_uses,
    op_name,
    shape_of,
)

#: A layout change moves across so many operators at most.
_MAX_STEPS = 64


class HoistLayout(GraphRewriter):
    """Move a layout change behind a resize to what the resize reads.

    A segmentation network enlarges its logits, of which users expect NCHW: there are 16 to 64 times
    as many numbers behind the resize as before. Rows of NCHW are also longer than those of NHWC,
    where each has as many numbers as there are classes.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._calls = {b.var: b.value for b in bindings_of(mod["main"])}
        self._read = count_uses(mod["main"])
        self._moved: dict[relax.Var, relax.Expr] = {}
        #: Values that were made larger by an operator without a layout, with the number of
        #: operators since then. In order, since recursion would overflow the stack.
        self._growth: dict[relax.Expr, int] = {}
        for var in self._calls:
            steps = self._steps(var)
            if steps is not None and steps < _MAX_STEPS:
                self._growth[var] = steps

    def visit_binding(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:  # noqa: ARG002
        """Replace a layout change whose data were made larger, and are read by nothing else."""
        old = self._calls[var]
        if not isinstance(old, relax.Call) or op_name(old) != "permute_dims":
            return None
        data, axes = old.args[0], old.attrs.axes
        if axes is None or not self._grows(data):
            return None
        inner = Counter({data: 1})
        self._count(data, inner)
        if any(self._read[each] != count for each, count in inner.items()):
            return None
        self._moved.clear()
        return self._permuted(data, tuple(map(int, axes)))

    def _arguments(self, expr: relax.Expr) -> list[relax.Expr]:
        """Return the tensors of a value's rank that an operator without a layout reads, if any."""
        call = self._calls.get(expr) if isinstance(expr, relax.Var) else None
        if not isinstance(call, relax.Call):
            return []
        if op_name(call) == "take":
            return [call.args[0]] if len(shape_of(call.args[1])) == 1 else []
        if op_name(call) not in ELEMENTWISE:
            return []
        tensors = [arg for arg in call.args if hasattr(arg.ty, "shape")]
        ranks = {len(shape_of(tensor)) for tensor in tensors}
        return tensors if ranks == {len(shape_of(expr))} else []

    def _steps(self, var: relax.Var) -> int | None:
        """Return the number of operators since a value was made larger; None if it was not."""
        arguments = self._arguments(var)
        takes = bool(arguments) and op_name(self._calls[var]) == "take"
        if takes and math.prod(shape_of(var)) > math.prod(shape_of(arguments[0])):
            return 0
        known = [self._growth[argument] for argument in arguments if argument in self._growth]
        return max(known) + 1 if known else None

    def _grows(self, expr: relax.Expr) -> bool:
        """Return whether a value was made larger by an operator without a layout."""
        return expr in self._growth

    def _count(self, expr: relax.Expr, inner: Counter[relax.Var]) -> None:
        """Count how often values that are replaced are read by each other."""
        for argument in self._arguments(expr):
            if self._grows(argument):
                seen = argument in inner
                inner[argument] += 1
                if not seen:
                    self._count(argument, inner)

    def _permuted(self, expr: relax.Expr, axes: tuple[int, ...]) -> relax.Expr:
        """Return a value of the old function in the new one, in another layout."""
        value = constant_value(expr)
        if value is not None:
            return constant(value.transpose(axes))
        if expr in self._moved:
            return self._moved[expr]
        if self._grows(expr):
            call = self._calls[expr]
            if op_name(call) == "take":
                axis = axes.index(int(call.attrs.axis) % len(axes))
                data = self._permuted(call.args[0], axes)
                new = relax.op.take(data, self.substitute(call.args[1]), axis, call.attrs.mode)
            else:
                arguments = [
                    self._permuted(arg, axes) if hasattr(arg.ty, "shape") else arg
                    for arg in call.args
                ]
                new = relax.Call(call.op, arguments, call.attrs, call.ty_args)
        else:
            new = relax.op.permute_dims(self.substitute(expr), axes)
        self._moved[expr] = self.emit(new)
        return self._moved[expr]
