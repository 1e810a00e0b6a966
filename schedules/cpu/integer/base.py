"""Base class of the integer schedules: register tiles of dot products, and packed operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array, D, W
from mobilenet_tvm.schedules.cpu.dot import Dot, Tile, dots_of
from mobilenet_tvm.schedules.cpu.dot.base import Vectors
from mobilenet_tvm.schedules.cpu.emit import EmittedSchedule, load
from mobilenet_tvm.schedules.workloads import TENSOR_STEPS, Workload
from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.targets.target import Target


class IntegerSchedule(EmittedSchedule[W, D]):
    """A schedule of integer layers for an instruction set of the target."""

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        plain = bool(dots_of(target, workload.types)) and not workload.gates
        return plain and super().takes(workload, target)


def depth_of(inputs: int, dot: Dot) -> int:
    """Return the inputs of a product, rounded up to whole groups."""
    return -(-inputs // dot.group) * dot.group


def copy_row(
    source: Any, start: Any, count: int, copy: Any, place: Any, padded: int, lanes: int
) -> None:
    """Emit the copy of some elements to another type, padded with zeros."""
    dtype = str(copy.ty.dtype)
    whole = count // lanes
    if whole:
        with T.serial(0, whole) as part:
            values = load(source, start + part * lanes, lanes)
            values = values.astype(vector_type(dtype, lanes))
            T.buffer_store(copy, values, [T.ramp(place + part * lanes, 1, lanes)])
    for index in range(whole * lanes, padded):
        value = source[start + index].astype(dtype) if index < count else tirx.const(0, dtype)
        T.buffer_store(copy, value, [place + index])


def multiply(
    dot: Dot,
    shape: tuple[int, int],
    inputs: int,
    data: Callable[[int, Any, int], Any],
    weights: Callable[[Any, int, int], Any],
    start: Callable[[int], Any],
) -> list[Vectors]:
    """Emit a register tile of dot products, and return its sums.

    Parameters
    ----------
    dot : Dot
        The instruction set.
    shape : tuple of int
        Rows of data, and vectors of outputs.
    inputs : int
        Whole groups.
    data, weights : callable
        As in `Tile`.
    start : callable
        Returns what a vector of sums begins with.

    Returns
    -------
    list of Vectors
        For each row, its vectors of sums.
    """
    rows, vectors = shape
    sums = dot.begin(rows, vectors, start)
    tile = Tile(rows, vectors, data, weights, sums)
    whole = inputs // dot.depth
    first = 1 if dot.peeled and whole > 1 else 0
    if first:
        dot.multiply(tile, 0, dot.depth)
    if whole:
        with T.serial(first, whole) as step:
            dot.multiply(tile, step * dot.depth, dot.depth)
    if inputs % dot.depth:
        dot.multiply(tile, whole * dot.depth, inputs % dot.depth)
    return dot.end(sums, rows, vectors, start)


def is_interleaved(workload: Workload) -> bool:
    """Return whether a layer's sums may be in another order, which `Dot.narrow` undoes."""
    tensors = any(step.op in TENSOR_STEPS for step in workload.epilogue)
    return workload.types.result in ("uint8", "int8") and not tensors


def in_order(operand: Array, dot: Dot, tile: int, interleaved: bool) -> Array:
    """Return values of the outputs, the last axis, padded to whole tiles, in the order of the sums.

    Parameters
    ----------
    operand : ndarray
        [..., outputs].
    dot : Dot
        The instruction set.
    tile : int
        Outputs of a tile.
    interleaved : bool
        Whether the order of a tile is that of `Dot.order`.
    """
    count = operand.shape[-1]
    full = np.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, -count % tile)])
    if not interleaved:
        return full
    order = np.array(dot.order(tile // dot.lanes))
    tiles = full.reshape(*full.shape[:-1], -1, tile)
    return np.ascontiguousarray(tiles[..., order].reshape(full.shape))


def pack_panels(weight: Array, dot: Dot, tile: int, interleaved: bool) -> Array:
    """Return weights [inputs, outputs] as [panels, groups, vectors of the instruction set], flat.

    Parameters
    ----------
    weight : ndarray
        [inputs, outputs].
    dot : Dot
        The instruction set.
    tile : int
        Outputs of a panel.
    interleaved : bool
        As for `in_order`.
    """
    full = np.pad(weight, ((0, -len(weight) % dot.group), (0, 0)))
    ordered = in_order(full, dot, tile, interleaved)
    parts = ordered.reshape(-1, dot.group, ordered.shape[1] // tile, tile // dot.lanes, dot.lanes)
    return np.ascontiguousarray(dot.arrange(parts.transpose(2, 0, 3, 1, 4))).reshape(-1)
