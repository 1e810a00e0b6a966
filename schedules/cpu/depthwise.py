"""Depthwise convolution: vectors of channels, an output tile in registers, all taps unrolled."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import (
    MOST_TILE_BYTES,
    divisors,
    epilogue_stage,
    keep_in_registers,
    padded,
    sum_in_registers,
)
from mobilenet_tvm.schedules.workloads import Depthwise
from mobilenet_tvm.targets.target import Target

CACHE_LINE = 64
#: Threads share rows where there are so many: a share of the channels would come from the other
#: cores' caches, to which the layers before and after give rows. With two threads, V3-Large and V2
#: took 2.5 % longer with some such layers shared by channels, chosen with one.
SHARED_ROWS = 14
#: Addresses so far apart share few sets of a first-level cache.
CACHE_SET_SPAN = 1024


@dataclass(frozen=True)
class Decision:
    """How to compute a depthwise layer.

    Parameters
    ----------
    tile_y, tile_x : int
        Rows and columns of the output tile; they divide the output's extents.
    tile_c : int
        Channels of the tile; divides the channels.
    channels_outside : bool
        Whether the loop over channel tiles is the outermost: better for small pictures of
        many channels, whose weights then stay in registers.
    """

    tile_y: int
    tile_x: int
    tile_c: int
    channels_outside: bool


def default(workload: Depthwise, target: Target) -> Decision:
    """Choose a decision from the target's description alone.

    The best tile loads the fewest vectors per output: neighbouring outputs share their
    inputs, and all share the taps. It stays small, eight outputs, so that the border's
    conditions can be moved out of it.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    target : Target
        Gives the vector width and the registers.

    Returns
    -------
    Decision
        Always valid for the workload.
    """
    lanes = _lanes(workload, target)
    row = 4 * workload.channels
    # With a stride, or pixels that fall into the same cache sets, a line is gone before its
    # second half is wanted.
    whole_lines = max(workload.stride) > 1 or row % CACHE_SET_SPAN == 0
    wanted = CACHE_LINE // 4 // lanes if whole_lines else 1

    def cost(tile: tuple[int, int, int]) -> tuple[float, int]:
        tile_y, tile_x, tile_c = tile
        rows = (tile_y - 1) * workload.stride[0] + workload.kernel[0]
        columns = (tile_x - 1) * workload.stride[1] + workload.kernel[1]
        taps = workload.kernel[0] * workload.kernel[1]
        loads = (rows * columns + taps) / (tile_y * tile_x)
        return loads * max(1.0, wanted * lanes / tile_c), -tile_c

    # Half of the registers are for inputs and taps.
    accumulators = min(target.vector_registers // 2, 8 * max(1, 8 // target.lanes))
    tiles = [
        (y, x, c)
        for y, x, c in _tiles(workload, target)
        if y * x <= 8 and y * x * c <= accumulators * lanes
    ]
    return Decision(*min(tiles, key=cost), channels_outside=False)


def space(workload: Depthwise, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    outside = [False, True] if workload.output[0] < SHARED_ROWS else [False]
    return {"tile": sorted(_tiles(workload, target)), "channels_outside": outside}


def valid(workload: Depthwise, decision: Decision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    return (decision.tile_y, decision.tile_x, decision.tile_c) in _tiles(workload, target)


def decisions(workload: Depthwise, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once."""
    parts = space(workload, target)
    return [
        Decision(y, x, c, outside)
        for (y, x, c), outside in itertools.product(parts["tile"], parts["channels_outside"])
    ]


def pack(weight: np.ndarray[Any, Any], decision: Decision) -> np.ndarray[Any, Any]:  # noqa: ARG001
    """Lay weights [kernel height, kernel width, channels] out: they are read as they are."""
    return np.ascontiguousarray(weight)


def build(workload: Depthwise, decision: Decision, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    decision : Decision
        How to compute it.
    target : Target
        Gives the vector width.

    Returns
    -------
    PrimFunc
        Takes data [batch, height, width, channels], weights [kernel height, kernel width,
        channels], the epilogue's tensors, and the output, in NHWC.
    """
    data, weight, total = sums(workload)
    operands, result = epilogue_stage(workload.epilogue, total.shape, lambda *i: total[i])
    sch = s_tir.Schedule(te.create_prim_func([data, weight, *operands, result]))
    _schedule(sch, decision, _lanes(workload, target))
    return sch.mod["main"]


def sums(
    workload: Depthwise, taps: str = "weight", data: te.Tensor | None = None
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Return a depthwise convolution's data, its weights, named `taps`, and its result.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    taps : str
        A name for the weights.
    data : te.Tensor, optional
        What it reads, where another stage computes that.
    """
    channels = workload.channels
    rows, columns = workload.output
    if data is None:
        shape = (workload.batch, workload.height, workload.width, channels)
        data = te.placeholder(shape, name="data")
    weight = te.placeholder((*workload.kernel, channels), name=taps)
    source = padded(data, workload.padding)
    ry = te.reduce_axis((0, workload.kernel[0]), name="ry")
    rx = te.reduce_axis((0, workload.kernel[1]), name="rx")
    stride_y, stride_x = workload.stride
    total = te.compute(
        (workload.batch, rows, columns, channels),
        lambda n, y, x, c: te.sum(
            source[n, y * stride_y + ry, x * stride_x + rx, c] * weight[ry, rx, c], axis=[ry, rx]
        ),
        name="depthwise",
    )
    return data, weight, total


def _schedule(sch: s_tir.Schedule, decision: Decision, lanes: int) -> None:
    total, result = sch.get_sblock("depthwise"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    y_tiles, y_tile = sch.split(y, [None, decision.tile_y])
    x_tiles, x_tile = sch.split(x, [None, decision.tile_x])
    c_tiles, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    outer, inner = (c_tiles, y_tiles) if decision.channels_outside else (y_tiles, c_tiles)
    sch.reorder(n, outer, inner, x_tiles, y_tile, x_tile, c_vector, c_lane)
    # The inner loop is a thread's own: where it runs over rows, LLVM splits the border off.
    sch.parallel(sch.fuse(n, outer))
    sch.compute_at(total, x_tiles, preserve_unit_loops=True)
    # Padding is a condition on the address; it is constant over a vector, and LLVM moves it
    # out of the unrolled tile: on x86 twice as fast as a padded copy of the input.
    for block in sch.get_producers(total):
        sch.compute_inline(block)

    *_, ty, tx, tc, ry, rx = sch.get_loops(total)
    sch.reorder(ry, rx, ty, tx, tc)
    sum_in_registers(sch, total, ry, [ry, rx], [ty, tx, tc], lanes)
    keep_in_registers(sch, [y_tile, x_tile, c_vector], c_lane)


def _lanes(workload: Depthwise, target: Target) -> int:
    return math.gcd(workload.channels, target.lanes)


def _tiles(workload: Depthwise, target: Target) -> list[tuple[int, int, int]]:
    """Return the output tiles whose accumulators, taps and inputs fit the registers."""
    lanes = _lanes(workload, target)
    rows, columns = workload.output
    limit = target.vector_registers - 2
    return [
        (tile_y, tile_x, vectors * lanes)
        for tile_y in divisors(rows, 4)
        for tile_x in divisors(columns, 14)
        for vectors in divisors(workload.channels // lanes, limit)
        if tile_y * tile_x * vectors <= limit
        and 4 * tile_y * tile_x * vectors * lanes <= MOST_TILE_BYTES
    ]
