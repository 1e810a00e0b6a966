"""The stem: a full convolution of a picture with few channels, read in NCHW or NHWC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import (
    MOST_TILE_BYTES,
    divisor_at_most,
    divisors,
    epilogue_stage,
    extent,
    keep_in_registers,
    padded,
    sum_in_registers,
)
from mobilenet_tvm.schedules.workloads import Convolution
from mobilenet_tvm.targets.target import Target

#: A picture has so few channels; more are a loop.
MOST_UNROLLED_INPUTS = 8


@dataclass(frozen=True)
class Decision:
    """How to compute a stem.

    Parameters
    ----------
    tile_x : int
        Output columns of the register tile; divides the output's width.
    tile_c : int
        Output channels of the register tile; divides the outputs.
    """

    tile_x: int
    tile_c: int


def default(workload: Convolution, target: Target) -> Decision:
    """Choose the register tile that loads least per multiply-add.

    Parameters
    ----------
    workload : Convolution
        The layer.
    target : Target
        Gives the vector width and the registers.

    Returns
    -------
    Decision
        Always valid for the workload.
    """
    lanes = lanes_of(workload, target)
    # As many sums as hide the latency; the more, the fewer of the unrolled taps stay in registers.
    busy = target.fma_latency * target.fma_per_cycle
    tiles = [(x, c) for x, c in _tiles(workload, target) if x * c <= max(busy, 8) * lanes]

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        tile_x, vectors = tile[0], tile[1] // lanes
        work = tile_x * vectors
        return max(1.0, busy / work) + (tile_x + vectors) / work, -tile_x

    return Decision(*min(tiles, key=cost))


def space(workload: Convolution, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    return {"tile": sorted(_tiles(workload, target))}


def valid(workload: Convolution, decision: Decision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    return (decision.tile_x, decision.tile_c) in _tiles(workload, target)


def decisions(workload: Convolution, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once."""
    return [Decision(*tile) for tile in space(workload, target)["tile"]]


def pack(weight: np.ndarray[Any, Any], decision: Decision) -> np.ndarray[Any, Any]:
    """Lay weights out as the schedule reads them.

    Parameters
    ----------
    weight : ndarray
        [kernel height, kernel width, inputs, outputs].
    decision : Decision
        Gives the width of a panel.

    Returns
    -------
    ndarray
        [outputs / tile_c, kernel height, kernel width, inputs, tile_c].
    """
    *window, outputs = weight.shape
    panels = weight.reshape(*window, outputs // decision.tile_c, decision.tile_c)
    return np.ascontiguousarray(panels.transpose(3, 0, 1, 2, 4))


def build(workload: Convolution, decision: Decision, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function.

    Parameters
    ----------
    workload : Convolution
        The layer.
    decision : Decision
        How to compute it.
    target : Target
        Gives the vector width.

    Returns
    -------
    PrimFunc
        Takes the picture, packed weights, the epilogue's tensors, and the output in NHWC.
    """
    data, weight, total = sums(workload, decision)
    operands, result = epilogue_stage(workload.epilogue, total.shape, lambda *i: total[i])
    sch = s_tir.Schedule(te.create_prim_func([data, weight, *operands, result]))
    _schedule(sch, decision, lanes_of(workload, target))
    return sch.mod["main"]


def sums(workload: Convolution, decision: Decision) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Return a convolution's data, its packed weights, and its result.

    Parameters
    ----------
    workload : Convolution
        The layer.
    decision : Decision
        Gives the width of a panel of weights.
    """
    tile_c = decision.tile_c
    picture = (workload.height, workload.width)
    nchw = workload.reads_nchw
    shape = (
        (workload.batch, workload.inputs, *picture)
        if nchw
        else (workload.batch, *picture, workload.inputs)
    )
    data = te.placeholder(shape, name="data")
    panels = workload.outputs // tile_c
    weight = te.placeholder((panels, *workload.kernel, workload.inputs, tile_c), name="weight")
    source = padded(data, workload.padding, nchw)
    ry = te.reduce_axis((0, workload.kernel[0]), name="ry")
    rx = te.reduce_axis((0, workload.kernel[1]), name="rx")
    rc = te.reduce_axis((0, workload.inputs), name="rc")
    stride_y, stride_x = workload.stride

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        row, column = y * stride_y + ry, x * stride_x + rx
        pixel = source[n, rc, row, column] if nchw else source[n, row, column, rc]
        return te.sum(
            pixel * weight[c // tile_c, ry, rx, rc, c % tile_c],
            axis=[ry, rx, rc],
        )

    output = (workload.batch, *workload.output, workload.outputs)
    return data, weight, te.compute(output, product, name="conv2d")


def _schedule(sch: s_tir.Schedule, decision: Decision, lanes: int) -> None:
    total, result = sch.get_sblock("conv2d"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    x_tiles, x_tile = sch.split(x, [None, decision.tile_x])
    c_tiles, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    sch.reorder(n, y, c_tiles, x_tiles, x_tile, c_vector, c_lane)
    rows = sch.fuse(n, y)
    sch.parallel(rows)
    sch.compute_at(total, x_tiles, preserve_unit_loops=True)
    for pad in sch.get_producers(total):
        # A few padded rows per thread stay in the first-level cache.
        sch.compute_at(pad, rows)

    hold_sums(sch, lanes)
    keep_in_registers(sch, [x_tile, c_vector], c_lane)


def hold_sums(sch: s_tir.Schedule, lanes: int) -> None:
    """Hold a tile's sums in registers while the taps and inputs pass by."""
    total = sch.get_sblock("conv2d")
    *_, tx, tc, ry, rx, rc = sch.get_loops(total)
    inputs = extent(sch, rc)
    few = inputs if inputs <= MOST_UNROLLED_INPUTS else divisor_at_most(inputs, 4)
    rc_outer, rc_inner = sch.split(rc, [None, few])
    sch.reorder(ry, rc_outer, rx, rc_inner, tx, tc)
    sum_in_registers(sch, total, ry, [rx, rc_inner], [tx, tc], lanes)


def lanes_of(workload: Convolution, target: Target) -> int:
    """Return the length of the vectors: a divisor of the outputs."""
    return math.gcd(workload.outputs, target.lanes)


def _tiles(workload: Convolution, target: Target) -> list[tuple[int, int]]:
    """Return the register tiles that fit: accumulators and one vector of each operand."""
    lanes = lanes_of(workload, target)
    return [
        (tile_x, vectors * lanes)
        for tile_x in divisors(workload.output[1], 16)
        for vectors in divisors(workload.outputs // lanes, 4)
        if tile_x * vectors + vectors + 1 <= target.vector_registers
        and 4 * tile_x * vectors * lanes <= MOST_TILE_BYTES
    ]
