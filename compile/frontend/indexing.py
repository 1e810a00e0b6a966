"""Converts operators that index tensors: Gather, Compress, Scatter, OneHot, Slice, TopK.

An index that is out of range at run time, which ONNX Runtime reports, is clamped: it must not read
or write other memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import (
    Array,
    Attributes,
    dtype_of,
    given,
    integer,
    text,
)
from mobilenet_tvm.compile.passes.values import constant, constant_value, shape_of


def gather(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert Gather along one axis."""
    data, indices = inputs
    axis = int(attributes.get("axis", 0)) % len(shape_of(data))
    return relax.op.take(data, in_range(indices, shape_of(data)[axis]), axis, "clip")


def gather_elements(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert GatherElements, whose indices have the result's shape."""
    data, indices = inputs
    axis = int(attributes.get("axis", 0)) % len(shape_of(data))
    return relax.op.gather_elements(data, in_range(indices, shape_of(data)[axis]), axis)


def gather_nd(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert GatherND, the last axis of whose indices holds coordinates."""
    data, indices = inputs
    batches = int(attributes.get("batch_dims", 0))
    extents = shape_of(data)[batches : batches + shape_of(indices)[-1]]
    return relax.op.gather_nd(data, in_range(indices, extents), batches)


def scatter_elements(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert ScatterElements, and Scatter, its name up to opset 10."""
    data, indices, updates = inputs
    axis = int(attributes.get("axis", 0)) % len(shape_of(data))
    return relax.op.scatter_elements(
        data, in_range(indices, shape_of(data)[axis]), updates, axis, _reduction(attributes)
    )


def scatter_nd(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert ScatterND, the last axis of whose indices holds coordinates."""
    data, indices, updates = inputs
    extents = shape_of(data)[: shape_of(indices)[-1]]
    return relax.op.scatter_nd(data, in_range(indices, extents), updates, _reduction(attributes))


def compress(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert Compress, whose condition must be constant, to a selection of slices."""
    data, condition = inputs[0], given(inputs, 1, "condition")
    if condition is None:
        raise NotImplementedError("condition is missing")
    shape = shape_of(data)
    if "axis" not in attributes:
        shape = (math.prod(shape),)
        data = relax.op.reshape(data, shape)
    axis = int(attributes.get("axis", 0)) % len(shape)
    places = np.flatnonzero(condition[: shape[axis]])
    if not places.size:
        raise NotImplementedError("a condition that selects nothing")
    return relax.op.take(data, constant(places), axis, "clip")


def one_hot(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert OneHot, whose result has the type of the values for off and on."""
    indices, values = inputs[0], given(inputs, 2, "values")
    depth = integer(inputs, 1, "depth")
    if values is None:
        raise NotImplementedError("values are missing")
    off, on = (constant(value) for value in values.reshape(2))
    rank = len(shape_of(indices))
    axis = int(attributes.get("axis", -1)) % (rank + 1)
    kind = dtype_of(indices)
    places = np.arange(depth, dtype=kind).reshape((-1, *(1,) * (rank - axis)))
    expanded = relax.op.expand_dims(indices, axis)
    hit = relax.op.equal(expanded, constant(places))
    # An index may count from the end; one that is out of range hits nothing.
    if not kind.startswith("uint"):
        hit = relax.op.logical_or(hit, relax.op.equal(expanded, constant(places - depth)))
    return relax.op.where(hit, on, off)


def slice_attributes(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    """Return the inputs of a Slice whose bounds are attributes, as up to opset 9."""
    names = [name for name in ("starts", "ends", "axes") if name in attributes]
    bounds = [constant(np.asarray(attributes[name], np.int64)) for name in names]
    return [inputs[0], *bounds, *[None] * (4 - len(bounds))]


def topk(inputs: Sequence[Any], attributes: Attributes, opset: int) -> Any:
    """Convert a sorted TopK to its values and its indices.

    Relax's operator is written as it is defined here: for indices, along the last axis of a matrix.
    """
    if not attributes.get("sorted", 1):
        raise NotImplementedError("sorted=0, whose order ONNX leaves open")
    data, shape = inputs[0], list(shape_of(inputs[0]))
    k = integer(inputs, 1, "k") if opset >= 10 else int(attributes["k"])
    axis = int(attributes.get("axis", -1)) % len(shape)
    if not 0 < k <= shape[axis]:
        raise NotImplementedError(f"k = {k} of {shape[axis]} values")
    order = [place for place in range(len(shape)) if place != axis] + [axis]
    rows = math.prod(shape) // shape[axis]
    matrix = relax.op.reshape(relax.op.permute_dims(data, order), (rows, shape[axis]))
    largest = bool(attributes.get("largest", 1))
    found = relax.op.topk(matrix, k, -1, "indices", largest, "int64")
    moved = [*(shape[place] for place in order[:-1]), k]
    back = [order.index(place) for place in range(len(shape))]
    indices = relax.op.permute_dims(relax.op.reshape(found, moved), back)
    return [relax.op.gather_elements(data, indices, axis), indices]


def _reduction(attributes: Attributes) -> str:
    name = text(attributes, "reduction", "none")
    return "update" if name == "none" else name


def in_range(indices: Any, extents: int | Sequence[int]) -> Any:
    """Count negative indices from the end of an axis, and keep all of them in it.

    Parameters
    ----------
    indices : Expr
        Integers.
    extents : int or sequence of int
        Of the axis, or of one axis for each place in the last axis of the indices.

    Raises
    ------
    NotImplementedError
        If a constant index is out of range.
    """
    known = constant_value(indices)
    limits: Array = np.asarray(extents)
    if known is not None:
        if ((known < -limits) | (known >= limits)).any():
            raise NotImplementedError(f"an index out of range, for extents {limits.tolist()}")
        return constant(np.where(known < 0, known + limits, known).astype(known.dtype))
    kind = dtype_of(indices)
    limit = constant(limits.astype(kind))
    zero, last = constant(np.zeros((), kind)), constant((limits - 1).astype(kind))
    if not kind.startswith("uint"):
        counted = relax.op.where(
            relax.op.less(indices, zero), relax.op.add(indices, limit), indices
        )
        indices = relax.op.maximum(counted, zero)
    return relax.op.minimum(indices, last)
