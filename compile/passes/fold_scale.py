"""A compiler pass that folds batch norm and constant scales and shifts into convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import constant, constant_value, op_name, shape_of


class FoldScale(GraphRewriter):
    """Turn convolution, batch norm, scale and shift into a convolution and one bias.

    Works on NCHW. A value with a second use is left unchanged: folding it would compute
    the convolution twice.
    """

    def visit(self, value: relax.Expr) -> relax.Expr | None:
        """Unpack the result of batch norm, and rewrite calls."""
        if isinstance(value, relax.TupleGetItem) and value.index == 0:
            call = self.producer(value.tuple_value, "nn.batch_norm")
            if call is not None and not call.attrs.training:
                return self._batch_norm(call)
        return super().visit(value)

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Fold a constant factor or term into the preceding operator."""
        name = op_name(call)
        if name not in ("multiply", "divide", "add", "subtract"):
            return None
        left, right = call.args
        if constant_value(left) is not None and name in ("multiply", "add"):
            left, right = right, left
        channels = _per_channel(left, constant_value(right))
        if channels is None:
            return None
        if name == "multiply":
            return self._scale(left, channels)
        if name == "divide":
            return self._scale(left, 1.0 / channels)
        return self._shift(left, channels if name == "add" else -channels)

    def _batch_norm(self, call: relax.Call) -> relax.Expr | None:
        data, *constants = call.args
        values = [constant_value(argument) for argument in constants]
        if any(value is None for value in values) or call.attrs.axis != 1:
            return None
        gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
        scale = gamma / np.sqrt(variance + call.attrs.epsilon)
        shift = beta - mean * scale
        scaled = self._scale(data, scale)
        if scaled is None:
            scaled = relax.op.multiply(data, _broadcast(scale, data))
        scaled = self.emit(scaled)
        shifted = self._shift(scaled, shift)
        return relax.op.add(scaled, _broadcast(shift, data)) if shifted is None else shifted

    def _scale(self, data: relax.Expr, scale: np.ndarray[Any, Any]) -> relax.Expr | None:
        """Return `data * scale` without a multiplication, or None if one is needed."""
        if not self.used_once(data):
            return None
        shifted = self.producer(data, "add")
        if shifted is not None:
            bias = _per_channel(shifted.args[0], constant_value(shifted.args[1]))
            inner = None if bias is None else self._scale(shifted.args[0], scale)
            if bias is None or inner is None:
                return None
            return relax.op.add(self.emit(inner), _broadcast(bias * scale, data))
        conv = self.producer(data, "nn.conv2d")
        weight = None if conv is None else constant_value(conv.args[1])
        if conv is None or weight is None:
            return None
        self.keep_name(data)
        scaled = (weight * scale.reshape(-1, 1, 1, 1)).astype(weight.dtype)
        return relax.Call(conv.op, [conv.args[0], constant(scaled)], conv.attrs)

    def _shift(self, data: relax.Expr, shift: np.ndarray[Any, Any]) -> relax.Expr | None:
        """Return `data + shift` with a single addition, if `data` is already a sum."""
        summed = self.producer(data, "add")
        if summed is None or not self.used_once(data):
            return None
        bias = _per_channel(summed.args[0], constant_value(summed.args[1]))
        if bias is None:
            return None
        return relax.op.add(summed.args[0], _broadcast(bias + shift, data))


def _per_channel(
    data: relax.Expr, value: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any] | None:
    """Return a constant as one float64 per channel of `data`, or None if it is not."""
    rank = len(shape_of(data))
    if value is None or rank < 2 or value.ndim > rank or value.dtype.kind != "f":
        return None
    channels = shape_of(data)[1]
    shape = (1,) * (rank - value.ndim) + value.shape
    if shape not in (_channel_shape(channels, rank), (1,) * rank):
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))


def _broadcast(channels: np.ndarray[Any, Any], data: relax.Expr) -> relax.Expr:
    shape = _channel_shape(len(channels), len(shape_of(data)))
    return constant(np.asarray(channels, str(data.ty.dtype)).reshape(shape))


def _channel_shape(channels: int, rank: int) -> tuple[int, ...]:
    return (1, channels, *(1,) * (rank - 2))
