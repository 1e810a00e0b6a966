"""Converts what TVM's importer lacks of pooling: the places of maxima, and MaxUnpool."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import Array, Attributes, dtype_of, integers, text
from mobilenet_tvm.compile.frontend.indexing import in_range
from mobilenet_tvm.compile.passes.values import constant, shape_of


def places_of_maxima(data: Any, maxima: Any, attributes: Attributes) -> Any:
    """Return the second output of MaxPool: where in the flat data each maximum is.

    Of equal values in a window, the first one counts. A tap's place is that of the first tap, which
    depends on the window, and an offset, which does not.

    Parameters
    ----------
    data : Expr
        [batch, channels, ...].
    maxima : Expr
        The first output.
    attributes : dict
        MaxPool's, with explicit pads.
    """
    shape, pooled = shape_of(data), shape_of(maxima)
    if not dtype_of(data).startswith("float"):
        # There is a value less than all of them to pad with.
        data, maxima = (relax.op.astype(value, "float32") for value in (data, maxima))
    extents, axes = shape[2:], range(2, len(shape))
    kernel = attributes["kernel_shape"]
    ones = [1] * len(kernel)
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    before = attributes.get("pads", [0] * 2 * len(kernel))[: len(kernel)]
    # From the first to the last place of a tap; the last window may reach beyond the pads.
    spans = [(n - 1) * step + 1 for n, step in zip(pooled[2:], strides, strict=True)]
    widths = [0, 0, 0, 0]
    for span, taps, dilation, pad, extent in zip(
        spans, kernel, dilations, before, extents, strict=True
    ):
        widths += [pad, max(span + (taps - 1) * dilation - pad - extent, 0)]
    padded = relax.op.nn.pad(data, widths, "constant", -np.inf)
    steps = [math.prod(extents[axis + 1 :]) for axis in range(len(extents))]
    if attributes.get("storage_order", 0):
        steps = [math.prod(extents[:axis]) for axis in range(len(extents))]

    result = constant(np.zeros(pooled, np.int64))
    for tap in reversed(list(itertools.product(*map(range, kernel)))):
        starts = [place * dilation for place, dilation in zip(tap, dilations, strict=True)]
        stops = [start + span for start, span in zip(starts, spans, strict=True)]
        values = relax.op.strided_slice(padded, list(axes), starts, stops, list(strides))
        inside = [start - pad for start, pad in zip(starts, before, strict=True)]
        offset = np.asarray(np.dot(inside, steps), np.int64)
        result = relax.op.where(relax.op.equal(values, maxima), constant(offset), result)
    planes = np.arange(math.prod(shape[:2]), dtype=np.int64) * math.prod(extents)
    first: Array = planes.reshape(*shape[:2], *ones)
    for axis, (count, stride, step) in enumerate(zip(pooled[2:], strides, steps, strict=True)):
        places = np.arange(count, dtype=np.int64) * stride * step
        first = first + places.reshape([-1 if other == axis else 1 for other in range(len(steps))])
    return relax.op.add(result, constant(first))


def refuse_maxima_of_regions(attributes: Attributes) -> None:
    """Reject a RoiAlign of maxima: TVM's are of interpolated values, ONNX's of their terms."""
    if text(attributes, "mode", "avg") != "avg":
        raise NotImplementedError("mode 'max'")


def max_unpool(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert MaxUnpool, which puts values where MaxPool found them, and zeros elsewhere."""
    data, places = inputs[:2]
    shape, kernel = shape_of(data), attributes["kernel_shape"]
    result = integers(inputs, 2, "output_shape")
    if result is None:
        strides = attributes.get("strides", [1] * len(kernel))
        pads = attributes.get("pads", [0] * 2 * len(kernel))
        both = [a + b for a, b in zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)]
        result = [*shape[:2]]
        for extent, taps, stride, pad in zip(shape[2:], kernel, strides, both, strict=True):
            result.append((extent - 1) * stride + taps - pad)
    size, count = math.prod(result), math.prod(shape)
    flat = relax.op.scatter_elements(
        relax.op.zeros((size,), dtype_of(data)),
        relax.op.reshape(in_range(places, size), (count,)),
        relax.op.reshape(data, (count,)),
        0,
    )
    return relax.op.reshape(flat, result)
