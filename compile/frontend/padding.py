"""Converts Pad, and the automatic padding of convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import Attributes, given, integers, text
from mobilenet_tvm.compile.passes.values import constant, shape_of


def pad(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Pad, whose pads and value are attributes up to opset 10; negative pads crop."""
    data, mode = inputs[0], text(attributes, "mode", "constant")
    shape = shape_of(data)
    axes: Sequence[int] | None = None
    if opset < 11:
        # Opset 1 called them paddings.
        pads, value = list(attributes["pads"]), attributes.get("value", 0.0)
    else:
        pads = integers(inputs, 1, "pads") or []
        number = given(inputs, 2, "the value")
        value = 0.0 if number is None else number.reshape(()).item()
        axes = integers(inputs, 3, "axes")
    axes = range(len(shape)) if axes is None else [axis % len(shape) for axis in axes]
    widths = [(0, 0)] * len(shape)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        widths[axis] = before, after
    for axis, (before, after) in enumerate(widths):
        places = np.arange(shape[axis])[max(-before, 0) : shape[axis] + min(after, 0)]
        outside = max(before, 0), max(after, 0)
        if mode != "constant" and any(outside):
            places = np.pad(places, outside, mode=_numpy_mode(mode))
        if len(places) != shape[axis] or (places != np.arange(shape[axis])).any():
            data = relax.op.take(data, constant(places.astype(np.int32)), axis, "clip")
    flat = [max(width, 0) for pair in widths for width in pair]
    if mode != "constant" or not any(flat):
        return data
    return relax.op.nn.pad(data, flat, "constant", float(value))


def _numpy_mode(mode: str) -> Any:
    if mode not in ("edge", "reflect", "wrap"):
        raise NotImplementedError(f"mode '{mode}'")
    return mode


def explicit_padding(inputs: Sequence[Any], attributes: Attributes) -> Attributes:
    """Replace the attribute `auto_pad` of a convolution or pooling with explicit `pads`.

    By ONNX's specification of Conv, the output of SAME_UPPER and SAME_LOWER has
    ceil(input / stride) pixels; an odd pixel of padding goes to the end or to the start.
    """
    mode = text(attributes, "auto_pad", "NOTSET")
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
