"""Converters of ONNX operators which TVM's importer rejects, gets wrong, or makes opaque.

TVM emits Clip, Pad and automatic padding as opaque loop nests, and Min and Max as a stack and a
reduction. Here they become graph operators, which passes can analyse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import Attributes, dtype_of, optional
from mobilenet_tvm.compile.frontend.conv_transpose import conv_transpose
from mobilenet_tvm.compile.frontend.indexing import (
    compress,
    gather,
    gather_elements,
    gather_nd,
    one_hot,
    scatter_elements,
    scatter_nd,
    topk,
)
from mobilenet_tvm.compile.frontend.padding import pad
from mobilenet_tvm.compile.frontend.resize import resize, upsample
from mobilenet_tvm.compile.passes.definitions import call_step
from mobilenet_tvm.compile.passes.recognize_smooth import ELU, MISH, SOFTPLUS
from mobilenet_tvm.compile.passes.values import constant, constant_value, shape_of

#: Converts the inputs, attributes and opset of a node to its output, or to a list of its outputs.
Converter = Callable[[Sequence[Any], Attributes, int], Any]


def clip(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Clip, whose optional bounds are attributes up to opset 10 and inputs from 11 on."""
    data = inputs[0]
    if opset < 11:
        low, high = attributes.get("min", -np.inf), attributes.get("max", np.inf)
        return relax.op.clip(data, min(low, high), high)
    bounds = optional(inputs, 1), optional(inputs, 2)
    values = [None if bound is None else constant_value(bound) for bound in bounds]
    if any(
        bound is not None and value is None for bound, value in zip(bounds, values, strict=True)
    ):
        data = data if bounds[0] is None else relax.op.maximum(data, bounds[0])
        return data if bounds[1] is None else relax.op.minimum(data, bounds[1])
    low, high = (
        default if value is None or np.isnan(value) else float(value.reshape(()))
        for value, default in zip(values, (-np.inf, np.inf), strict=True)
    )
    # If the bounds cross, the upper one wins in ONNX.
    return relax.op.clip(data, min(low, high), high)


def minimum(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Min of any number of inputs."""
    return reduce(relax.op.minimum, inputs)


def maximum(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Max of any number of inputs."""
    return reduce(relax.op.maximum, inputs)


def concat(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert Concat; empty inputs add nothing."""
    axis = int(attributes["axis"])
    parts = [part for part in inputs if 0 not in shape_of(part)]
    if not parts:
        raise NotImplementedError("all inputs are empty")
    return parts[0] if len(parts) == 1 else relax.op.concat(parts, axis)


def power(inputs: Sequence[Any], _attributes: Attributes, _opset: int) -> Any:
    """Convert Pow, whose result has the type of the base even if the exponent has another."""
    base, exponent = inputs
    kind, other = dtype_of(base), dtype_of(exponent)
    if kind == other:
        return relax.op.power(base, exponent)
    number = constant_value(exponent)
    if kind.startswith("float"):
        cast = relax.op.astype(exponent, kind) if number is None else constant(number.astype(kind))
        return relax.op.power(base, cast)
    wide = "float64" if "float64" in (kind, other) or kind.endswith("64") else "float32"
    result = relax.op.power(relax.op.astype(base, wide), relax.op.astype(exponent, wide))
    return relax.op.astype(result, kind)


def layer_norm(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert LayerNormalization; its outputs are the result, the mean and 1 / deviation."""
    data, scale, bias = inputs[0], inputs[1], optional(inputs, 2)
    shape, kind = shape_of(data), dtype_of(data)
    axes = list(range(int(attributes.get("axis", -1)) % len(shape), len(shape)))
    normalized = shape[axes[0] :]
    epsilon = float(attributes.get("epsilon", 1e-5))
    scale = relax.op.broadcast_to(scale, normalized)
    bias = constant(np.zeros((), kind)) if bias is None else bias
    result = relax.op.nn.layer_norm(
        data, scale, relax.op.broadcast_to(bias, normalized), axes, epsilon
    )
    mean = relax.op.mean(data, axes, keepdims=True)
    centred = relax.op.subtract(data, mean)
    variance = relax.op.mean(relax.op.multiply(centred, centred), axes, keepdims=True)
    inverse = relax.op.rsqrt(relax.op.add(variance, constant(np.asarray(epsilon, kind))))
    return [result, mean, inverse]


def lp_norm(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert LpNormalization; what has the norm 0 stays 0."""
    data, axes = inputs[0], [int(attributes.get("axis", -1))]
    if attributes.get("p", 2) == 1:
        norm = relax.op.sum(relax.op.abs(data), axes, keepdims=True)
    else:
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(data, data), axes, keepdims=True))
    zero = constant(np.zeros((), dtype_of(data)))
    return relax.op.where(relax.op.equal(norm, zero), zero, relax.op.divide(data, norm))


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


#: Operators converted here instead of by TVM.
CONVERTERS: dict[str, Converter] = {
    "Clip": clip,
    "Compress": compress,
    "Concat": concat,
    "ConvTranspose": conv_transpose,
    "Elu": elu,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "LayerNormalization": layer_norm,
    "LpNormalization": lp_norm,
    "Max": maximum,
    "Min": minimum,
    "Mish": mish,
    "OneHot": one_hot,
    "Pad": pad,
    "Pow": power,
    "Resize": resize,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Sign": sign,
    "Softplus": softplus,
    "ThresholdedRelu": thresholded_relu,
    "TopK": topk,
    "Upsample": upsample,
}
#: Operators that TVM converts correctly once their padding is explicit.
AUTO_PADDED = frozenset({"AveragePool", "Conv", "MaxPool"})
