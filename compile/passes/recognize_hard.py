"""A compiler pass that recognises hard-swish and hard-sigmoid in exported arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.definitions import call_step, register_step
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import constant_value, op_name, shape_of

#: Operators registered here, since Relax has none for these functions.
HARD_SIGMOID = "mobilenet.hard_sigmoid"
HARD_SWISH = "mobilenet.hard_swish"


class RecognizeHard(GraphRewriter):
    """Turn clip(x + 3, 0, 6) / 6 and its variants into one operator (Howard and others, 2019)."""

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Match the last operation of each variant."""
        name = op_name(call)
        if name == "clip":
            return self._clip(call)
        if name not in ("multiply", "divide"):
            return None
        factor, data = _scaled(call)
        if factor is not None and np.isclose(factor, 1 / 6, rtol=1e-5):
            gate = self._relu6_of_x_plus_3(data)
            if gate is not None:
                return call_step(HARD_SIGMOID, gate)
            product = self.producer(data, "multiply")
            if product is not None:
                return self._swish(product, self._relu6_of_x_plus_3)
        return self._swish(call, self._hard_sigmoid) if name == "multiply" else None

    def _clip(self, call: relax.Call) -> relax.Expr | None:
        """Match clip(x / 6 + 0.5, 0, 1), ONNX's HardSigmoid."""
        if _limits(call) != (0.0, 1.0):
            return None
        data = self._plus(call.args[0], 0.5)
        product = None if data is None else self.producer(data, ("multiply", "divide"))
        if product is None:
            return None
        factor, inner = _scaled(product)
        matches = factor is not None and np.isclose(factor, 1 / 6, rtol=1e-5)
        return call_step(HARD_SIGMOID, inner) if matches else None

    def _swish(self, product: relax.Call, gate_of: Any) -> relax.Expr | None:
        """Match x * gate(x), in either order."""
        for data, gate in (tuple(product.args), tuple(product.args)[::-1]):
            source = gate_of(gate)
            if source is not None and source.same_as(data):
                return call_step(HARD_SWISH, data)
        return None

    def _hard_sigmoid(self, expr: relax.Expr) -> relax.Expr | None:
        call = self.producer(expr, HARD_SIGMOID)
        return None if call is None else call.args[0]

    def _relu6_of_x_plus_3(self, expr: relax.Expr) -> relax.Expr | None:
        clip = self.producer(expr, "clip")
        if clip is None or _limits(clip) != (0.0, 6.0):
            return None
        return self._plus(clip.args[0], 3.0)

    def _plus(self, expr: relax.Expr, number: float) -> relax.Expr | None:
        """Return x if the expression is x + number."""
        total = self.producer(expr, "add")
        if total is not None:
            for data, term in (tuple(total.args), tuple(total.args)[::-1]):
                value = _scalar(term, data)
                if value is not None and np.isclose(value, number, rtol=1e-5):
                    return data
        return None


def _scaled(call: relax.Call) -> tuple[float | None, relax.Expr]:
    """Return (factor, x) if a call multiplies or divides x by a number, else (None, x)."""
    left, right = call.args
    if op_name(call) == "divide":
        value = _scalar(right, left)
        return (None if value is None else 1 / value), left
    for data, factor in ((left, right), (right, left)):
        value = _scalar(factor, data)
        if value is not None:
            return value, data
    return None, left


def _scalar(expr: relax.Expr, data: relax.Expr) -> float | None:
    """Return a constant number that is not 0 and adds no axes to the data, or None."""
    value = constant_value(expr)
    if value is None or value.size != 1 or value.dtype.kind != "f" or not value.all():
        return None
    if value.ndim > len(shape_of(data)):
        return None
    return float(value.reshape(()))


def _limits(clip: relax.Call) -> tuple[float, float]:
    return float(clip.args[1].value), float(clip.args[2].value)


for _name in (HARD_SIGMOID, HARD_SWISH):
    register_step(_name)
