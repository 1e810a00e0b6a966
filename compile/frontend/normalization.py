"""Converts normalisations by layers, norms and root mean squares, which TVM gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import Attributes, dtype_of, optional
from mobilenet_tvm.compile.passes.values import constant, shape_of


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


def rms_norm(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert RMSNormalization, whose scale may have fewer axes than are normalised."""
    data, scale = inputs
    kind, rank = dtype_of(data), len(shape_of(data))
    axes = list(range(int(attributes.get("axis", -1)) % rank, rank))
    epsilon = constant(np.asarray(attributes.get("epsilon", 1e-5), kind))
    square = relax.op.mean(relax.op.multiply(data, data), axes, keepdims=True)
    normalized = relax.op.multiply(data, relax.op.rsqrt(relax.op.add(square, epsilon)))
    return relax.op.multiply(normalized, scale)
