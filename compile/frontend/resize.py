"""Converts Resize and Upsample: gathers and weighted sums by tables, computed here, per axis.

ONNX maps the coordinates of each axis by the scale of the file, which need not be the ratio of the
sizes. The tables hold what results from that, for every mode, and ONNX Runtime's arithmetic is
followed where the specification leaves a choice. Taking rows, weighting and adding them are
element-wise operators, so that they work in every layout and are fused into one loop nest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import Array, Attributes, dtype_of, given, text
from mobilenet_tvm.compile.passes.values import constant, shape_of

#: Sums of more terms than this, which only antialiasing has, are matrix products.
_MOST_TAPS = 4
#: Half the width of the filters, in pixels of the input, or of the output where that is smaller.
_SUPPORT = {"linear": 1.0, "cubic": 2.0}


def resize(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Resize, which has no roi and no sizes in opset 10.

    Parameters
    ----------
    inputs : sequence of Expr or None
        The data, then constants: roi, scales, sizes; in opset 10, scales only.
    attributes : dict
        Of the node.
    opset : int
        Of the model.

    Returns
    -------
    Expr
        The resized data, of the same type.

    Raises
    ------
    NotImplementedError
        If the size is computed at run time, or a mode is not supported.
    """
    data = inputs[0]
    mode = text(attributes, "mode", "nearest")
    if opset < 11:
        return _resize(data, None, given(inputs, 1, "scales"), None, _Options(mode))
    options = _Options(
        mode,
        text(attributes, "coordinate_transformation_mode", "half_pixel"),
        text(attributes, "nearest_mode", "round_prefer_floor"),
        text(attributes, "keep_aspect_ratio_policy", "stretch"),
        attributes.get("axes"),
        bool(attributes.get("antialias", 0)),
        float(attributes.get("cubic_coeff_a", -0.75)),
        bool(attributes.get("exclude_outside", 0)),
        float(attributes.get("extrapolation_value", 0.0)),
    )
    scales, sizes = given(inputs, 2, "scales"), given(inputs, 3, "sizes")
    return _resize(data, given(inputs, 1, "roi"), scales, sizes, options)


def upsample(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert Upsample, whose scales are an attribute up to opset 8; arguments as of `resize`."""
    mode = text(attributes, "mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    scales = np.asarray(attributes["scales"]) if opset < 9 else given(inputs, 1, "scales")
    return _resize(inputs[0], None, scales, None, _Options(mode))


@dataclass(frozen=True)
class _Options:
    """Attributes of Resize; the defaults are what Upsample and Resize of opset 10 do."""

    mode: str
    coordinates: str = "asymmetric"
    nearest: str = "simple"
    policy: str = "stretch"
    axes: Sequence[int] | None = None
    antialias: bool = False
    cubic_coefficient: float = -0.75
    exclude_outside: bool = False
    extrapolation: float = 0.0

    @property
    def crops(self) -> bool:
        """Whether there is a region of interest."""
        return self.coordinates == "tf_crop_and_resize"


@dataclass(frozen=True)
class _Axis:
    """An axis that is resized: its size before and after, its scale, and its part of the roi."""

    before: int
    after: int
    scale: np.float32
    start: np.float32
    end: np.float32


def _resize(
    data: Any, roi: Array | None, scales: Array | None, sizes: Array | None, options: _Options
) -> Any:
    shape, kind = list(shape_of(data)), dtype_of(data)
    if options.mode != "nearest" and not kind.startswith("float"):
        raise NotImplementedError(f"mode '{options.mode}' on integers")
    result = data
    outside = np.zeros((1,) * len(shape), bool)
    # The last axis first: then the larger half of the work is on whole rows.
    for place, axis in reversed(_axes(shape, roi, scales, sizes, options).items()):
        coordinates = _coordinates(axis, options.coordinates)
        indices, weights = _table(axis, coordinates, options)
        if weights is None:
            result = relax.op.take(result, constant(indices[:, 0]), place, "clip")
        elif indices.shape[1] <= _MOST_TAPS:
            result = _sum(result, place, len(shape), indices, weights.astype(kind))
        else:
            matrix = np.zeros((axis.before, axis.after), kind)
            np.add.at(matrix, (indices, np.arange(axis.after)[:, None]), weights)
            result = _product(result, place, len(shape), matrix)
        if options.crops:
            misses = (coordinates < 0) | (coordinates > axis.before - 1)
            outside = outside | misses.reshape((-1, *(1,) * (len(shape) - 1 - place)))
    if outside.any():
        value = constant(np.asarray(options.extrapolation, kind))
        result = relax.op.where(constant(outside), value, result)
    return result


def _axes(
    shape: Sequence[int],
    roi: Array | None,
    scales: Array | None,
    sizes: Array | None,
    options: _Options,
) -> dict[int, _Axis]:
    """Return the axes that change, by place."""
    rank = len(shape)
    places = [int(axis) % rank for axis in options.axes or range(rank)]
    if scales is not None:
        # The product is formed in float32, as ONNX Runtime does.
        factors = dict(zip(places, scales.astype(np.float32), strict=True))
        after = {p: int(np.floor(np.float32(shape[p]) * factors[p])) for p in places}
    elif sizes is not None:
        after = dict(zip(places, map(int, sizes), strict=True))
        factors = {p: np.float32(after[p]) / np.float32(shape[p]) for p in places}
        if options.policy != "stretch":
            choose = min if options.policy == "not_larger" else max
            factor = choose(factors.values())
            factors = dict.fromkeys(places, factor)
            after = {p: int(np.floor(factor * np.float32(shape[p]) + 0.5)) for p in places}
    else:
        raise NotImplementedError("neither scales nor sizes are given")
    if min(after.values()) < 1:
        raise NotImplementedError(f"an output of {min(after.values())} pixels")
    axes = {}
    for index, place in enumerate(places):
        start, end = np.float32(0), np.float32(1)
        if options.crops and roi is not None:
            start, end = np.float32(roi[index]), np.float32(roi[index + len(places)])
        # ONNX Runtime leaves an axis of scale 1 as it is, even if a part of it is to be cropped.
        if factors[place] != 1:
            axes[place] = _Axis(shape[place], after[place], factors[place], start, end)
    return axes


def _coordinates(axis: _Axis, mode: str) -> Array:
    """Return the place in the input of each pixel of the output, as float32."""
    pixels = np.arange(axis.after, dtype=np.float32)
    one, half = np.float32(1), np.float32(0.5)
    before, after = np.float32(axis.before), np.float32(axis.after)
    if mode == "asymmetric":
        return pixels / axis.scale
    if mode == "half_pixel":
        return (pixels + half) / axis.scale - half
    if mode == "pytorch_half_pixel":
        return (pixels + half) / axis.scale - half if axis.after > 1 else pixels
    if mode == "half_pixel_symmetric":
        adjustment = after / (axis.scale * before)
        return before / 2 * (one - adjustment) + ((pixels + half) / axis.scale - half)
    if mode == "tf_half_pixel_for_nn":
        return (pixels + half) / axis.scale
    if mode == "align_corners":
        return pixels * (before - one) / (after - one) if axis.after > 1 else pixels
    if mode == "tf_crop_and_resize":
        if axis.after == 1:
            return np.full(1, half * (axis.start + axis.end) * (before - one), np.float32)
        step = (axis.end - axis.start) * (before - one) / (after - one)
        return axis.start * (before - one) + pixels * step
    raise NotImplementedError(f"coordinate_transformation_mode '{mode}'")


def _table(axis: _Axis, coordinates: Array, options: _Options) -> tuple[Array, Array | None]:
    """Return the indices [outputs, taps] of an axis and their weights, or None for a single 1."""
    mode = options.mode
    if mode == "nearest":
        if options.coordinates == "half_pixel_symmetric":
            # Its rounding errors, which would decide ties, are not ONNX Runtime's.
            coordinates = np.round(coordinates, 4)
        return _nearest(axis, coordinates, options.nearest).reshape(-1, 1), None
    if mode not in _SUPPORT:
        raise NotImplementedError(f"mode '{mode}'")
    kernel = _triangle if mode == "linear" else _cubic(options.cubic_coefficient)
    width = 1 / axis.scale if options.antialias and axis.scale < 1 else np.float32(1)
    excludes = options.exclude_outside
    if mode == "linear" and width == 1:
        coordinates, excludes = np.clip(coordinates, 0, axis.before - 1), False
    return _taps(axis, coordinates, kernel, _SUPPORT[mode], width, excludes)


def _nearest(axis: _Axis, coordinates: Array, mode: str) -> Array:
    floor = np.floor(coordinates)
    if mode == "simple":
        rounded = np.ceil(coordinates) if axis.scale < 1 else np.trunc(coordinates)
    elif mode == "floor":
        rounded = floor
    elif mode == "ceil":
        rounded = np.ceil(coordinates)
    elif mode == "round_prefer_floor":
        rounded = np.ceil(coordinates - np.float32(0.5))
    elif mode == "round_prefer_ceil":
        rounded = np.floor(coordinates + np.float32(0.5))
    else:
        raise NotImplementedError(f"nearest_mode '{mode}'")
    return np.clip(rounded, 0, axis.before - 1).astype(np.int32)


def _taps(
    axis: _Axis,
    coordinates: Array,
    kernel: Callable[[Array], Array],
    support: float,
    width: np.float32,
    excludes: bool,
) -> tuple[Array, Array]:
    """Return the table of a filter that is `2 * support * width` pixels wide.

    What lies outside counts as the nearest pixel, or not at all.
    """
    count = int(np.ceil(2 * support * width)) + (width > 1)
    first = np.floor(coordinates - np.float32(support) * width) + 1
    places = first[:, None] + np.arange(count, dtype=np.float32)
    weights = kernel((places - coordinates[:, None]).astype(np.float64) / width)
    if excludes:
        weights = np.where((places >= 0) & (places < axis.before), weights, 0)
    if excludes or width > 1:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(places, 0, axis.before - 1).astype(np.int32), weights.astype(np.float32)


def _triangle(distance: Array) -> Array:
    return np.asarray(np.maximum(1 - np.abs(distance), 0))


def _cubic(a: float) -> Callable[[Array], Array]:
    """Return the cubic convolution filter (Keys, 1981) with coefficient `a`."""

    def kernel(distance: Array) -> Array:
        x = np.abs(distance)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    return kernel


def _sum(data: Any, place: int, rank: int, indices: Array, weights: Array) -> Any:
    """Return the sum over the taps of the data at their indices along an axis times the weights."""
    terms = []
    for places, factors in zip(indices.T, weights.T, strict=True):
        taken = relax.op.take(data, constant(places), place, "clip")
        shape = (-1, *(1,) * (rank - 1 - place))
        terms.append(relax.op.multiply(taken, constant(factors.reshape(shape))))
    return reduce(relax.op.add, terms)


def _product(data: Any, place: int, rank: int, matrix: Array) -> Any:
    """Return the product of an axis of the data with a matrix [inputs, outputs]."""
    order = [axis for axis in range(rank) if axis != place] + [place]
    product = relax.op.matmul(relax.op.permute_dims(data, order), constant(matrix))
    return relax.op.permute_dims(product, [order.index(axis) for axis in range(rank)])
