"""A compiler pass that recognises SiLU, GELU and Mish in exported arithmetic."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.definitions import call_step, register_step
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import constant_value, op_name

#: Operators without a counterpart in Relax; ELU is that with alpha 1.
ELU, MISH, SOFTPLUS = "mobilenet.elu", "mobilenet.mish", "mobilenet.softplus"
for _name in (ELU, MISH, SOFTPLUS):
    register_step(_name)


class RecognizeSmooth(GraphRewriter):
    """Turn products with gates into one operator, whatever the order of the factors.

    They are x sigmoid(x), x (1 + erf(x / sqrt 2)) / 2 and x tanh(softplus(x)).
    """

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Match the last product of each."""
        if op_name(call) != "multiply":
            return None
        for data, gate in (tuple(call.args), tuple(call.args)[::-1]):
            sigmoid = self.producer(gate, "sigmoid")
            if sigmoid is not None and sigmoid.args[0].same_as(data):
                return relax.op.nn.silu(data)
            tanh = self.producer(gate, "tanh")
            softplus = None if tanh is None else self.producer(tanh.args[0], SOFTPLUS)
            if softplus is not None and softplus.args[0].same_as(data):
                return call_step(MISH, data)
        found = self._gelu(call)
        return None if found is None else relax.op.nn.gelu(found)

    def _gelu(self, call: relax.Call) -> relax.Expr | None:
        """Return x if a product is x (1 + erf(x / sqrt 2)) / 2."""
        factor, rest = 1.0, []
        factors = list(call.args)
        while factors:
            value = factors.pop()
            number, product = _number(value), self.producer(value, "multiply")
            if number is not None:
                factor *= number
            elif product is not None:
                factors.extend(product.args)
            else:
                rest.append(value)
        if len(rest) != 2 or not math.isclose(factor, 0.5, rel_tol=1e-5):
            return None
        for data, gate in (rest, rest[::-1]):
            source = self._one_plus_erf(gate)
            if source is not None and source.same_as(data):
                return data
        return None

    def _one_plus_erf(self, expr: relax.Expr) -> relax.Expr | None:
        """Return x if an expression is 1 + erf(x / sqrt 2)."""
        total = self.producer(expr, "add")
        if total is None:
            return None
        for value, one in (tuple(total.args), tuple(total.args)[::-1]):
            erf = self.producer(value, "erf")
            if erf is not None and _number(one) == 1.0:
                return self._scaled(erf.args[0], math.sqrt(0.5))
        return None

    def _scaled(self, expr: relax.Expr, factor: float) -> relax.Expr | None:
        """Return x if an expression is x times some factor."""
        call = self.producer(expr, ("multiply", "divide"))
        if call is None:
            return None
        for data, other in (tuple(call.args), tuple(call.args)[::-1]):
            number = _number(other)
            if number is None or (op_name(call) == "divide" and not data.same_as(call.args[0])):
                continue
            by = 1 / number if op_name(call) == "divide" else number
            return data if math.isclose(by, factor, rel_tol=1e-5) else None
        return None


def _number(expr: relax.Expr) -> float | None:
    """Return a constant that is one number."""
    value = constant_value(expr)
    if value is None or value.size != 1 or value.dtype.kind != "f":
        return None
    return float(np.float64(value.reshape(())))
