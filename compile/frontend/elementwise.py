"""Converts functions of single values that TVM's importer rejects, gets wrong, or makes opaque."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import Attributes, dtype_of
from mobilenet_tvm.compile.passes.definitions import call_step
from mobilenet_tvm.compile.passes.recognize_smooth import ELU, MISH, SOFTPLUS
from mobilenet_tvm.compile.passes.values import constant, constant_value


def power(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Pow, whose result has the type of the base even if the exponent has another."""
    base, exponent = inputs
    kind, other = dtype_of(base), dtype_of(exponent)
    if kind == other and kind.startswith("float"):
        return relax.op.power(base, exponent)
    number = constant_value(exponent)
    if kind.startswith("float"):
        cast = relax.op.astype(exponent, kind) if number is None else constant(number.astype(kind))
        return relax.op.power(base, cast)
    # Not float32, which does not hold all integers of 32 bits.
    wide = [relax.op.astype(value, "float64") for value in (base, exponent)]
    return relax.op.astype(relax.op.power(*wide), kind)


def sign(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Sign, which is NaN of NaN."""
    (data,) = inputs
    result = relax.op.sign(data)
    if not dtype_of(data).startswith("float"):
        return result
    return relax.op.where(relax.op.isnan(data), data, result)


def thresholded_relu(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert ThresholdedRelu; TVM multiplies by 0, which is NaN of what is infinite."""
    (data,) = inputs
    kind = dtype_of(data)
    alpha, zero = (constant(np.asarray(n, kind)) for n in (attributes.get("alpha", 1.0), 0))
    return relax.op.where(relax.op.greater(data, alpha), data, zero)


def elu(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert Elu: a step of the layer before it if alpha is 1, as it is everywhere."""
    (data,) = inputs
    alpha = float(attributes.get("alpha", 1.0))
    if alpha == 1:
        return call_step(ELU, data)
    negative = call_step(ELU, relax.op.minimum(data, constant(np.zeros((), dtype_of(data)))))
    scaled = relax.op.multiply(negative, constant(np.asarray(alpha, dtype_of(data))))
    return relax.op.add(scaled, relax.op.nn.relu(data))


def mish(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Mish."""
    return call_step(MISH, inputs[0])


def softplus(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Softplus."""
    return call_step(SOFTPLUS, inputs[0])


def cosh(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Cosh, which LLVM does not have."""
    grown, decayed = _half_exponentials(inputs[0])
    return relax.op.add(grown, decayed)


def sinh(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Sinh: below 1 by its series, since the exponentials nearly cancel there."""
    (data,) = inputs
    kind = dtype_of(data)
    square, series = relax.op.multiply(data, data), constant(np.ones((), kind))
    for factor in (72, 42, 20, 6):
        term = relax.op.multiply(square, constant(np.asarray(1 / factor, kind)))
        series = relax.op.add(constant(np.ones((), kind)), relax.op.multiply(term, series))
    grown, decayed = _half_exponentials(data)
    large = relax.op.multiply(relax.op.sign(data), relax.op.subtract(grown, decayed))
    is_small = relax.op.less(square, constant(np.ones((), kind)))
    return relax.op.where(is_small, relax.op.multiply(data, series), large)


def _half_exponentials(data: Any) -> tuple[Any, Any]:
    """Return exp(|x|) / 2 and exp(-|x|) / 2, the first of which overflows only if cosh does."""
    half = constant(np.asarray(0.5, dtype_of(data)))
    root = relax.op.exp(relax.op.multiply(relax.op.abs(data), half))
    grown = relax.op.multiply(relax.op.multiply(root, half), root)
    return grown, relax.op.divide(half, relax.op.multiply(root, root))


def is_inf(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert IsInf, which may look for one of the infinities only."""
    (data,) = inputs
    found = [
        relax.op.equal(data, constant(np.asarray(value, dtype_of(data))))
        for name, value in (("detect_negative", -np.inf), ("detect_positive", np.inf))
        if attributes.get(name, 1)
    ]
    if not found:
        return relax.op.zeros_like(data, "bool")
    return found[0] if len(found) == 1 else relax.op.logical_or(*found)
