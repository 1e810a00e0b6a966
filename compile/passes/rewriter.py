"""Base class of graph passes: rewrites a straight-line Relax function binding by binding."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax
from tvm.ir import GenericConst

from mobilenet_tvm.compile.passes.names import stem
from mobilenet_tvm.compile.passes.values import count_uses, op_name, straight_line

#: Removes values that a rewrite left unused, and variables that only rename others.
_TIDY = tvm.transform.Sequential(
    [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
)


class GraphRewriter:
    """Rebuilds `main` in order; a subclass replaces calls as they are visited.

    An imported MobileNet is a single dataflow block of calls, so a pass needs no general
    visitor: it visits each call once, with its arguments already rewritten, and may inspect
    the calls that produced them.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.builder = relax.BlockBuilder(mod)
        self._new: dict[relax.Var, relax.Expr] = {}
        self._value: dict[relax.Var, relax.Expr] = {}
        self._uses = count_uses(mod["main"])
        self._old: dict[relax.Var, relax.Var] = {}
        #: Name for new variables: that of the old one that they replace.
        self._name = ""

    def run(self) -> tvm.IRModule:
        """Return a module with `main` rewritten and other functions unchanged.

        Raises
        ------
        UserError
            If `main` contains control flow, which no MobileNet has.
        """
        func = self.mod["main"]
        body = straight_line(func)
        # The builder refuses to define a function twice, so `main` gets its name at the end.
        with self.builder.function("rewritten", params=list(func.params)):
            with self.builder.dataflow():
                for binding in body.blocks[0].bindings if body.blocks else []:
                    self._name = stem(binding.var.name)
                    value = self.substitute(binding.value)
                    visited = self.visit_binding(binding.var, value)
                    new = self.emit(value if visited is None else visited)
                    self._new[binding.var] = new
                    if isinstance(new, relax.Var):
                        self._old.setdefault(new, binding.var)
                result = self.result(body.body)
                name = stem(result.name) if isinstance(result, relax.Var) else ""
                result = self.builder.emit_output(result, name_hint=name)
            self.builder.emit_func_output(result)
        mod = self.builder.get()
        main = mod["rewritten"].with_attrs({**dict(func.attrs or {}), "global_symbol": "main"})
        functions = {var: f for var, f in mod.functions.items() if var.name_hint != "rewritten"}
        out = tvm.IRModule({v: f for v, f in functions.items() if v.name_hint != "main"})
        out["main"] = main
        if self.mod.attrs:
            out = out.with_attrs(dict(self.mod.attrs))
        return _TIDY(out)

    def visit_binding(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:  # noqa: ARG002
        """Return the replacement for an old variable's value; by default that of `visit`."""
        return self.visit(value)

    def visit(self, value: relax.Expr) -> relax.Expr | None:
        """Return a bound value's replacement, or None to keep it; calls go to `visit_call`."""
        return self.visit_call(value) if isinstance(value, relax.Call) else None

    def visit_call(self, call: relax.Call) -> relax.Expr | None:  # noqa: ARG002
        """Return the replacement for a call, or None to keep it."""
        return None

    def result(self, value: relax.Expr) -> relax.Expr:
        """Return the new function's result, given that of the old one."""
        return self.substitute(value)

    def emit(self, value: relax.Expr) -> relax.Expr:
        """Bind a new value in the function under construction and return its variable."""
        if isinstance(value, relax.Var | GenericConst):
            return value
        if isinstance(value, relax.Call):
            # Otherwise the builder binds nested calls under names of its own.
            args = [self.emit(arg) if isinstance(arg, relax.Call) else arg for arg in value.args]
            value = relax.Call(value.op, args, value.attrs, value.ty_args)
        var = self.builder.emit(value, name_hint=self._name)
        self._value[var] = value
        return var

    def keep_name(self, expr: relax.Expr) -> None:
        """Name the replacement for the current value after another value that it continues."""
        if isinstance(expr, relax.Var):
            self._name = stem(expr.name)

    def producer(self, expr: relax.Expr, op: str | Sequence[str]) -> relax.Call | None:
        """Return the call that produced `expr`, if it is one of the named operators."""
        names = (op,) if isinstance(op, str) else op
        value = self._value.get(expr) if isinstance(expr, relax.Var) else None
        return value if isinstance(value, relax.Call) and op_name(value) in names else None

    def used_once(self, expr: relax.Expr) -> bool:
        """Return whether a value has a single use, so that folding it duplicates no work."""
        return self._uses[self._old[expr]] == 1 if expr in self._old else True

    def substitute(self, value: relax.Expr) -> relax.Expr:
        """Return an expression of the old function in terms of the new variables."""
        if isinstance(value, relax.Var):
            return self._new.get(value, value)
        if isinstance(value, relax.Call):
            args = [self.substitute(arg) for arg in value.args]
            return relax.Call(value.op, args, value.attrs, value.ty_args)
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.substitute(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self.substitute(value.tuple_value), value.index)
        return value
