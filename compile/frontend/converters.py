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

from mobilenet_tvm.compile.frontend.arguments import (
    Attributes,
    dtype_of,
    given,
    integer,
    integers,
    optional,
)
from mobilenet_tvm.compile.frontend.conv_transpose import conv_transpose
from mobilenet_tvm.compile.frontend.elementwise import (
    cosh,
    elu,
    is_inf,
    mish,
    power,
    sign,
    sinh,
    softplus,
    thresholded_relu,
)
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
from mobilenet_tvm.compile.frontend.normalization import layer_norm, lp_norm, rms_norm
from mobilenet_tvm.compile.frontend.padding import pad
from mobilenet_tvm.compile.frontend.pooling import max_unpool
from mobilenet_tvm.compile.frontend.resize import resize, upsample
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
    computed = any(b is not None and v is None for b, v in zip(bounds, values, strict=True))
    if computed or not dtype_of(data).startswith("float"):
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


def split(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Split; parts may be empty, and the last one may be smaller than the others."""
    data = inputs[0]
    axis = int(attributes.get("axis", 0)) % len(shape_of(data))
    extent, count = shape_of(data)[axis], int(attributes["tvm_custom"]["num_outputs"])
    sizes = attributes.get("split") if opset < 13 else integers(inputs, 1, "split")
    if sizes is None:
        size = -(-extent // count)
        sizes = [min(size, extent - size * place) for place in range(count)]
    ends = [int(end) for end in np.cumsum(sizes)]
    if all(sizes):
        return relax.op.split(data, ends[:-1], axis) if len(ends) > 1 else data
    nothing = np.zeros(
        [0 if n == axis else m for n, m in enumerate(shape_of(data))], dtype_of(data)
    )
    return [
        relax.op.strided_slice(data, [axis], [end - size], [end]) if size else constant(nothing)
        for size, end in zip(sizes, ends, strict=True)
    ]


def dropout(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Dropout, which drops nothing outside of training, to the data and a mask."""
    data, training = inputs[0], given(inputs, 2, "training_mode")
    if training is not None and training.any():
        raise NotImplementedError("training mode; call model.eval(), export again")
    if attributes["tvm_custom"]["num_outputs"] == 1:
        return data
    # Up to opset 9, the mask has the type of the data; up to 11, that of ONNX Runtime is 0.
    kind = bool if opset > 9 else dtype_of(data)
    return [data, constant(np.full(shape_of(data), opset > 11, kind))]


def cumulative_product(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert CumProd, from the start of an axis or from its end."""
    data, axis = inputs[0], integer(inputs, 1, "axis") % len(shape_of(inputs[0]))
    backwards = bool(attributes.get("reverse", 0))
    data = relax.op.flip(data, axis) if backwards else data
    product = relax.op.cumprod(data, axis, exclusive=bool(attributes.get("exclusive", 0)))
    return relax.op.flip(product, axis) if backwards else product


#: Operators converted here instead of by TVM.
CONVERTERS: dict[str, Converter] = {
    "Clip": clip,
    "Compress": compress,
    "Concat": concat,
    "ConvTranspose": conv_transpose,
    "Cosh": cosh,
    "CumProd": cumulative_product,
    "Dropout": dropout,
    "Elu": elu,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "IsInf": is_inf,
    "LayerNormalization": layer_norm,
    "LpNormalization": lp_norm,
    "Max": maximum,
    "MaxUnpool": max_unpool,
    "Min": minimum,
    "Mish": mish,
    "OneHot": one_hot,
    "Pad": pad,
    "Pow": power,
    "RMSNormalization": rms_norm,
    "Resize": resize,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Sign": sign,
    "Sinh": sinh,
    "Softplus": softplus,
    "Split": split,
    "ThresholdedRelu": thresholded_relu,
    "TopK": topk,
    "Upsample": upsample,
}
#: Operators that TVM converts correctly once their padding is explicit.
AUTO_PADDED = frozenset({"AveragePool", "Conv", "MaxPool"})
