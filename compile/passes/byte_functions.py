"""Evaluates functions of a quantised tensor for each of the 256 values of a byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.recognize_hard import HARD_SIGMOID, HARD_SWISH
from mobilenet_tvm.compile.passes.recognize_smooth import ELU, MISH, SOFTPLUS
from mobilenet_tvm.compile.passes.values import Array, op_name

#: The values of a type in the order of their bytes.
BYTES = {
    "uint8": np.arange(256, dtype=np.uint8),
    "int8": np.arange(256, dtype=np.uint8).view("int8"),
}


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x / np.float32(6) + np.float32(0.5), 0, 1)


def _erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x], np.float32)


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "abs": lambda _, x: np.abs(x),
    "add": lambda _, x, y: x + y,
    "clip": lambda call, x: np.clip(x, float(call.args[1].value), float(call.args[2].value)),
    "divide": lambda _, x, y: x / y,
    "erf": lambda _, x: _erf(x),
    "exp": lambda _, x: np.exp(x),
    "log": lambda _, x: np.log(x),
    "maximum": lambda _, x, y: np.maximum(x, y),
    "minimum": lambda _, x, y: np.minimum(x, y),
    "multiply": lambda _, x, y: x * y,
    "negative": lambda _, x: -x,
    "nn.gelu": lambda _, x: x * (1 + _erf(x / np.float32(math.sqrt(2)))) / 2,
    "nn.leakyrelu": lambda call, x: np.where(x < 0, x * np.float32(call.attrs.alpha), x),
    "nn.relu": lambda _, x: np.maximum(x, 0),
    "nn.relu6": lambda _, x: np.clip(x, 0, 6),
    "nn.silu": lambda _, x: x * _sigmoid(x),
    "power": lambda _, x, y: np.power(x, y),
    "sigmoid": lambda _, x: _sigmoid(x),
    "sqrt": lambda _, x: np.sqrt(x),
    "square": lambda _, x: x * x,
    "subtract": lambda _, x, y: x - y,
    "tanh": lambda _, x: np.tanh(x),
    ELU: lambda _, x: np.asarray(np.where(x < 0, np.expm1(np.minimum(x, 0)), x)),
    MISH: lambda _, x: x * np.tanh(np.logaddexp(0, x)),
    SOFTPLUS: lambda _, x: np.logaddexp(0, x),
    HARD_SIGMOID: lambda _, x: _hard_sigmoid(x),
    HARD_SWISH: lambda _, x: x * _hard_sigmoid(x),
}


def evaluate(call: relax.Call, values: Sequence[Any]) -> Array | None:
    """Return an element-wise call's result for each byte, or None for an unknown operator.

    Parameters
    ----------
    call : Call
        The call.
    values : sequence of ndarray
        float32: the value of each tensor argument for each byte, or a number.
    """
    function = _FUNCTIONS.get(op_name(call))
    if function is None:
        return None
    with np.errstate(all="ignore"):
        result = function(call, *(np.asarray(value, np.float32) for value in values))
    return np.asarray(result, np.float32) if np.isfinite(result).all() else None
