"""A block in one function: convolution, depthwise, pointwise, by bands of rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import divisors, epilogue_stage, keep_in_registers
from mobilenet_tvm.schedules.cpu import depthwise_pointwise, pointwise, stem
from mobilenet_tvm.schedules.workloads import Block, Convolution, Pointwise
from mobilenet_tvm.targets.target import Target

#: Of the second-level cache for a band; the rest is for weights, input and output.
SHARE_OF_CACHE = 0.75
#: So many threads find work.
FEWEST_BANDS = 4
#: Larger bands than any cache of today holds.
MOST_ROWS = 128
#: Tiles whose modelled cycles are within this factor of the fewest are candidates.
LITTLE_WORSE = 1.15
#: Repeated multiply-adds per value of the convolution's result that cost less than to store the
#: value and load it again: 8 bytes, at some flops per byte of the outer caches' bandwidth.
MOST_REPEATED = 8


@dataclass(frozen=True)
class Decision:
    """How to compute a block.

    Parameters
    ----------
    rows : int
        Output rows of a band; divides the output's height. A band's rows of the convolution's
        result, which overlap with the next band's, are computed into a buffer and read from it.
    first_x, first_c : int
        The convolution's register tile, as in `stem.Decision`.
    lanes, tile_m, tile_n, tile_x : int
        The other two layers, as in `depthwise_pointwise.Decision`.
    """

    rows: int
    first_x: int
    first_c: int
    lanes: int
    tile_m: int
    tile_n: int
    tile_x: int

    @property
    def first(self) -> stem.Decision:
        """The convolution's part."""
        return stem.Decision(self.first_x, self.first_c)

    @property
    def halves(self) -> depthwise_pointwise.Decision:
        """The other two layers' part."""
        return depthwise_pointwise.Decision(self.lanes, self.tile_m, self.tile_n, self.tile_x)


def pays(workload: Block, target: Target) -> bool:
    """Tell whether fusing saves more memory traffic than its repeated rows cost.

    It does where the convolution's result would leave the second-level cache, and bands of it,
    which overlap, fit without repeating much.

    Parameters
    ----------
    workload : Block
        The layers.
    target : Target
        Gives the cache.
    """
    first = workload.first
    height, width = first.output
    if 4 * height * width * first.outputs <= target.l2_bytes:
        return False
    rows = _rows(workload, target)
    bands = workload.halves.depthwise.output[0] // rows
    repeated = bands * _band_height(workload, rows) / height - 1
    return repeated * first.kernel[0] * first.kernel[1] * first.inputs <= MOST_REPEATED


def default(workload: Block, target: Target) -> Decision:
    """Choose bands that fit the second-level cache, and each layer's own tiles.

    Parameters
    ----------
    workload : Block
        The layers.
    target : Target
        Registers, ports, latency, caches.

    Returns
    -------
    Decision
        Always valid for the workload.
    """
    first = _first(workload.first, target)
    halves = depthwise_pointwise.default(workload.halves, target)
    rows = _rows(workload, target)
    return Decision(rows, *vars(first).values(), *vars(halves).values())


def _rows(workload: Block, target: Target) -> int:
    """Return the most rows per band that leave a band for each of some threads."""
    depthwise = workload.halves.depthwise
    row_bytes = 4 * depthwise.width * depthwise.channels
    fitting = [
        rows
        for rows in _bands(depthwise.output[0])
        if _band_height(workload, rows) * row_bytes <= SHARE_OF_CACHE * target.l2_bytes
    ]
    return max(fitting, default=1)


def _bands(height: int) -> list[int]:
    """Return the rows that a band may have: a library may be run with any number of threads."""
    return [rows for rows in divisors(height, MOST_ROWS) if height // rows >= FEWEST_BANDS] or [1]


def _band_height(workload: Block, rows: int) -> int:
    """Return how many of the convolution's rows a band needs."""
    depthwise = workload.halves.depthwise
    return min(depthwise.height, (rows - 1) * depthwise.stride[0] + depthwise.kernel[0])


def _first(workload: Convolution, target: Target) -> stem.Decision:
    if workload.kernel != (1, 1):
        return stem.default(workload, target)
    height, width = workload.output
    product = Pointwise(height * width, workload.inputs, workload.outputs)
    lanes = stem.lanes_of(workload, target)
    tiles = stem.space(workload, target)["tile"]

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        return pointwise.cycles(product, target, lanes, *tile), -tile[0]

    return stem.Decision(*min(tiles, key=cost))


def space(workload: Block, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    halves = depthwise_pointwise.space(workload.halves, target)
    return {
        "rows": _bands(workload.halves.depthwise.output[0]),
        "first": stem.space(workload.first, target)["tile"],
        **halves,
    }


def decisions(workload: Block, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once, without tiles that cannot be good.

    All combinations are too many to measure, or even to predict.
    """
    product = workload.halves.pointwise
    taps = workload.first.kernel[0] * workload.first.kernel[1]
    pixels = workload.first.output[0] * workload.first.output[1]
    expansion = Pointwise(pixels, taps * workload.first.inputs, workload.first.outputs)
    length = stem.lanes_of(workload.first, target)
    parts = space(workload, target)
    firsts = _cheap(parts["first"], lambda tile: pointwise.cycles(expansion, target, length, *tile))
    tiles = _cheap(parts["tile"], lambda tile: pointwise.cycles(product, target, *tile))
    return [
        Decision(rows, first_x, first_c, lanes, tile_m, tile_n, tile_x)
        for rows, (first_x, first_c), (lanes, tile_m, tile_n), tile_x in itertools.product(
            parts["rows"], firsts, tiles, parts["tile_x"]
        )
        if tile_m % tile_x == 0 and rows >= 2
    ]


def _cheap(tiles: list[Any], cost: Callable[[Any], float]) -> list[Any]:
    """Return the tiles that the model of the inner loop finds little worse than the best."""
    least = min(map(cost, tiles))
    return [tile for tile in tiles if cost(tile) <= LITTLE_WORSE * least]


def valid(workload: Block, decision: Decision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    return (
        decision.rows in space(workload, target)["rows"]
        and stem.valid(workload.first, decision.first, target)
        and depthwise_pointwise.valid(workload.halves, decision.halves, target)
    )


def pack(
    first: np.ndarray[Any, Any],
    taps: np.ndarray[Any, Any],
    matrix: np.ndarray[Any, Any],
    decision: Decision,
) -> tuple[np.ndarray[Any, Any], ...]:
    """Lay all three layers' weights out as the schedule reads them.

    Parameters
    ----------
    first : ndarray
        [kernel height, kernel width, inputs, channels]; or [inputs, channels] for 1x1.
    taps : ndarray
        [kernel height, kernel width, channels].
    matrix : ndarray
        [channels, outputs].
    decision : Decision
        Gives the widths of panels.
    """
    window = first if first.ndim == 4 else first[np.newaxis, np.newaxis]
    halves = depthwise_pointwise.pack(taps, matrix, decision.halves)
    return stem.pack(window, decision.first), *halves


def build(workload: Block, decision: Decision, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function.

    Parameters
    ----------
    workload : Block
        The layers.
    decision : Decision
        How to compute them.
    target : Target
        Gives the vector width.

    Returns
    -------
    PrimFunc
        Takes data, then each layer's weights and epilogue tensors, and the output, in NHWC.
    """
    first = workload.first
    data, weight, total = stem.sums(first, decision.first)
    operands, expanded = epilogue_stage(
        first.epilogue, total.shape, lambda *i: total[i], "expanded"
    )
    _, parameters, result = depthwise_pointwise.stages(workload.halves, decision.halves, expanded)
    arguments = [data, weight, *operands, *parameters, result]
    sch = s_tir.Schedule(te.create_prim_func(arguments))
    band = depthwise_pointwise.schedule_halves(
        sch, decision.halves, workload.halves, target, decision.rows
    )
    lanes = stem.lanes_of(first, target)
    stage = sch.get_sblock("expanded")
    sch.compute_at(stage, band, preserve_unit_loops=True)
    *_, y, x, c = sch.get_loops(stage)
    x_tiles, x_tile = sch.split(x, [None, decision.first_x])
    c_tiles, c_vector, c_lane = sch.split(c, [None, decision.first_c // lanes, lanes])
    # All channels of a few pixels, then the next pixels: the buffer is written in order.
    sch.reorder(y, x_tiles, c_tiles, x_tile, c_vector, c_lane)
    total = sch.get_sblock("conv2d")
    sch.compute_at(total, c_tiles, preserve_unit_loops=True)
    for pad in sch.get_producers(total):
        sch.compute_at(pad, y)
    stem.hold_sums(sch, lanes)
    keep_in_registers(sch, [x_tile, c_vector], c_lane)
    return sch.mod["main"]
