"""A compiler pass that turns chains of Relu, Min and Max with constants back into one clip."""

from __future__ import annotations

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import constant_value, op_name, shape_of


class RecoverClip(GraphRewriter):
    """Recognise ReLU6 and similar activations in any exported form.

    `relu(x)` is unchanged; `minimum(relu(x), 6)`, `minimum(maximum(x, 0), 6)` and
    clips of clips become `clip(x, 0, 6)`.
    """

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Replace a constant bound by a clip, merged with a preceding one."""
        bounds = _bounds(call)
        if bounds is None or op_name(call) == "nn.relu":
            return None
        data, low, high = bounds
        before = self.producer(data, ("clip", "nn.relu", "minimum", "maximum"))
        inner = None if before is None else _bounds(before)
        # min(max(x, a), b) is a clip only if a <= b.
        if inner is not None and inner[1] <= high and low <= inner[2]:
            data, low, high = inner[0], max(low, inner[1]), min(high, inner[2])
        if low == 0.0 and high == np.inf:
            return relax.op.nn.relu(data)
        return relax.op.clip(data, low, high)


def _bounds(call: relax.Call) -> tuple[relax.Expr, float, float] | None:
    """Return (data, low, high) if the call limits `data` by constants."""
    name = op_name(call)
    if name == "nn.relu":
        return call.args[0], 0.0, np.inf
    if name == "clip":
        return call.args[0], float(call.args[1].value), float(call.args[2].value)
    if name not in ("minimum", "maximum"):
        return None
    for data, bound in (call.args, reversed(call.args)):
        value = constant_value(bound)
        if value is None or value.size != 1 or value.dtype.kind != "f":
            continue
        # A constant with more axes than the data gives the result its axes.
        if value.ndim <= len(shape_of(data)):
            limit = float(value.reshape(()))
            return (data, -np.inf, limit) if name == "minimum" else (data, limit, np.inf)
    return None
