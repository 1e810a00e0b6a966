"""Converters of ONNX operators for which TVM's importer emits code that passes cannot analyse.

TVM emits Clip, Pad and automatic padding as opaque loop nests, and Min and Max as a stack and a
reduction. Here they become graph operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.values import constant_value, shape_of

Attributes = dict[str, Any]
Converter = Callable[[Sequence[Any], Attributes, int], Any]


def clip(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Clip, whose optional bounds are attributes up to opset 6 and inputs from 11 on."""
    data = inputs[0]
    if opset < 11:
        low, high = attributes.get("min", -np.inf), attributes.get("max", np.inf)
        return relax.op.clip(data, min(low, high), high)
    bounds = _input(inputs, 1), _input(inputs, 2)
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


def pad(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Pad with a constant; MobileNets use no other mode."""
    mode = attributes.get("mode", b"constant").decode()
    if mode != "constant":
        raise NotImplementedError(f"mode '{mode}'; only constant padding is supported")
    rank = len(shape_of(inputs[0]))
    if opset < 11:
        pads, value = list(attributes["pads"]), attributes.get("value", 0.0)
        axes = list(range(rank))
    else:
        pads = _integers(inputs[1], "pads")
        value = _scalar(_input(inputs, 2)) or 0.0
        given = _input(inputs, 3)
        axes = list(range(rank)) if given is None else _integers(given, "axes")
    widths = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        widths[2 * (axis % rank)] = pads[position]
        widths[2 * (axis % rank) + 1] = pads[position + len(axes)]
    if min(widths) < 0:
        raise NotImplementedError("negative pads (cropping)")
    return relax.op.nn.pad(inputs[0], widths, "constant", float(value))


def explicit_padding(inputs: Sequence[Any], attributes: Attributes) -> Attributes:
    """Replace the attribute `auto_pad` of a convolution or pooling with explicit `pads`.

    By ONNX's specification of Conv, the output of SAME_UPPER and SAME_LOWER has
    ceil(input / stride) pixels; an odd pixel of padding goes to the end or to the start.
    """
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    attributes = {name: value for name, value in attributes.items() if name != "auto_pad"}
    if mode in ("NOTSET", "VALID"):
        return attributes if mode == "NOTSET" else {**attributes, "pads": (0, 0, 0, 0)}
    spatial = shape_of(inputs[0])[2:]
    kernel = attributes.get("kernel_shape") or shape_of(inputs[1])[2:]
    strides = attributes.get("strides", [1] * len(spatial))
    dilations = attributes.get("dilations", [1] * len(spatial))
    before, after = [], []
    for extent, taps, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        reach = (taps - 1) * dilation + 1
        total = max((-(-extent // stride) - 1) * stride + reach - extent, 0)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return {**attributes, "pads": tuple(before + after)}


#: Operators converted here instead of by TVM.
CONVERTERS: dict[str, Converter] = {"Clip": clip, "Max": maximum, "Min": minimum, "Pad": pad}
#: Operators that TVM converts correctly once their padding is explicit.
AUTO_PADDED = frozenset({"AveragePool", "Conv", "MaxPool"})
#: Operators whose output shape depends on values; TVM would pad some of them.
DYNAMIC = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})


def _input(inputs: Sequence[Any], index: int) -> Any:
    return inputs[index] if index < len(inputs) else None


def _scalar(expr: Any) -> float | None:
    if expr is None:
        return None
    array = constant_value(expr)
    if array is None:
        raise NotImplementedError("a bound or value that is computed at run time")
    return float(array.reshape(()))


def _integers(expr: Any, what: str) -> list[int]:
    array = constant_value(expr)
    if array is None:
        raise NotImplementedError(f"{what} computed at run time")
    return [int(value) for value in array.reshape(-1)]
