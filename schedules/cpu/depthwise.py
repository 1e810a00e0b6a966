"""Depthwise convolution: vectors of channels, an output tile in registers, all taps unrolled."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import CpuSchedule, function_of, vector_lanes
from mobilenet_tvm.schedules.cpu.registers import (
    fits_stack,
    keep_in_registers,
    sum_in_registers,
    tile_features,
)
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.stages import Epilogue, padded
from mobilenet_tvm.schedules.workloads import Depthwise, size_of
from mobilenet_tvm.targets.target import Target

#: Bytes of a cache line.
CACHE_LINE = 64
#: With at least this many rows, threads split the rows: the adjacent layers split rows too, so a
#: split of the channels would read from the other cores' caches. With two threads, V3-Large and V2
#: took 2.5 % longer when some such layers, tuned with one thread, were split by channels.
MIN_PARALLEL_ROWS = 14
#: Addresses this many bytes apart map to few sets of a first-level cache.
CACHE_SET_SPAN = 1024


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a depthwise layer.

    Parameters
    ----------
    tile_y, tile_x : int
        Rows and columns of the output tile; divide the output's extents.
    tile_c : int
        Channels of the tile; divides the channels.
    channels_outside : bool
        Whether the loop over channel tiles is the outermost: better for small images with
        many channels, whose weights then stay in registers.
    """

    tile_y: int
    tile_x: int
    tile_c: int
    channels_outside: bool


class DepthwiseConvolution(CpuSchedule[Depthwise, Decision]):
    """Keeps a tile of rows x columns x channels in registers while iterating over the taps."""

    workload_type = Depthwise
    decision_type = Decision
    dilates = True

    def default(self, workload: Depthwise, target: Target) -> Decision:
        """Choose the tile that loads the fewest vectors per output.

        Neighbouring outputs share inputs, and all share the taps. The tile is limited to eight
        outputs, so that the conditions on the border can be hoisted out of it.
        """
        lanes = lanes_of(workload, target)
        element = size_of(workload.types.data)
        # With a stride, or pixels that map to the same cache sets, a line is evicted before its
        # second half is used.
        conflicts = element * workload.channels % CACHE_SET_SPAN == 0
        whole_lines = max(workload.window.stride) > 1 or conflicts
        wanted = CACHE_LINE // element // lanes if whole_lines else 1

        def cost(tile: tuple[int, int, int]) -> tuple[float, int]:
            tile_y, tile_x, tile_c = tile
            loads = _loads(workload, tile_y, tile_x)
            return loads * max(1.0, wanted * lanes / tile_c), -tile_c

        # Half of the registers hold inputs and taps.
        outputs = 8 * max(1, 256 // target.vector_bits)
        accumulators = min(target.vector_registers // 2, outputs)
        tiles = [
            (y, x, c)
            for y, x, c in _tiles(workload, target)
            if y * x <= 8 and y * x * c <= accumulators * lanes
        ]
        return Decision(*min(tiles, key=cost), channels_outside=False)

    def space(self, workload: Depthwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        outside = [False, True] if workload.output[0] < MIN_PARALLEL_ROWS else [False]
        return {"tile": sorted(_tiles(workload, target)), "channels_outside": outside}

    def valid(self, workload: Depthwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return (decision.tile_y, decision.tile_x, decision.tile_c) in _tiles(workload, target)

    def decisions(self, workload: Depthwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        parts = self.space(workload, target)
        return [
            Decision(y, x, c, outside)
            for (y, x, c), outside in itertools.product(parts["tile"], parts["channels_outside"])
        ]

    def build(self, workload: Depthwise, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data [batch, height, width, channels] and an output in NHWC."""
        epilogue = Epilogue(workload, workload.output_shape)
        data, weight, total = sums(workload, epilogue)
        result = epilogue.stage(lambda *i: total[i])
        sch = s_tir.Schedule(function_of([data, weight, *epilogue.operands, result], target))
        _schedule(sch, decision, lanes_of(workload, target))
        return sch.mod["main"]

    def features(self, workload: Depthwise, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: the tile, its loads and its share of the caches."""
        lanes, taps = lanes_of(workload, target), workload.window.taps
        vectors = decision.tile_c / lanes
        rows, columns = workload.window.inputs(decision.tile_y, decision.tile_x)
        height, width = workload.output
        element = size_of(workload.types.data)
        outputs = decision.tile_y * decision.tile_x
        outer = workload.channels / decision.tile_c
        if not decision.channels_outside:
            outer = height / decision.tile_y
        return tile_features(outputs, vectors, rows * columns / taps, 1.0, target) | {
            "share_of_lanes": lanes / vector_lanes(workload.types, target),
            "loads_per_output": _loads(workload, decision.tile_y, decision.tile_x),
            "unrolled": outputs * vectors * taps,
            "lines": element * decision.tile_c / CACHE_LINE,
            "row_share_of_l1": element * width * workload.channels * rows / target.l1d_bytes,
            "column_share_of_l1": element * width * decision.tile_c * rows / target.l1d_bytes,
            "tiles_x": width / decision.tile_x,
            "stride": workload.window.stride[0],
            "taps": taps,
            "chunks": workload.batch * outer,
        }

    def cycles(self, workload: Depthwise, decision: Decision, target: Target) -> float:
        """Estimate a decision's cost per output: the larger of its loads and its multiply-adds."""
        loads = _loads(workload, decision.tile_y, decision.tile_x)
        return max(loads, workload.window.taps / target.fma_per_cycle)


def sums(
    workload: Depthwise, epilogue: Epilogue, taps: str = "weight", data: te.Tensor | None = None
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Return the data, the weights and the sums of a depthwise convolution.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    epilogue : Epilogue
        The steps on the sums.
    taps : str
        Name of the weights.
    data : te.Tensor, optional
        The input, if another stage computes it.
    """
    channels, window = workload.channels, workload.window
    if data is None:
        shape = (workload.batch, workload.height, workload.width, channels)
        data = te.placeholder(shape, workload.types.data, name="data")
    weight = te.placeholder((*window.kernel, channels), workload.types.weights, name=taps)
    source = padded(data, window.padding)
    ry = te.reduce_axis((0, window.kernel[0]), name="ry")
    rx = te.reduce_axis((0, window.kernel[1]), name="rx")
    (stride_y, stride_x), (step_y, step_x) = window.stride, window.dilation

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        row, column = y * stride_y + ry * step_y, x * stride_x + rx * step_x
        return epilogue.sum(source[n, row, column, c] * weight[ry, rx, c], [ry, rx], c, channels)

    total = te.compute(workload.output_shape, product, name="depthwise")
    return data, weight, total


def lanes_of(workload: Depthwise, target: Target) -> int:
    """Return the vector length: a divisor of the channels."""
    return math.gcd(workload.channels, vector_lanes(workload.types, target))


def _schedule(sch: s_tir.Schedule, decision: Decision, lanes: int) -> None:
    total, result = sch.get_sblock("depthwise"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    y_tiles, y_tile = sch.split(y, [None, decision.tile_y])
    x_tiles, x_tile = sch.split(x, [None, decision.tile_x])
    c_tiles, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    outer, inner = (c_tiles, y_tiles) if decision.channels_outside else (y_tiles, c_tiles)
    sch.reorder(n, outer, inner, x_tiles, y_tile, x_tile, c_vector, c_lane)
    # Only the outer loop is parallel: where the inner one runs over rows, LLVM peels the border.
    sch.parallel(sch.fuse(n, outer))
    sch.compute_at(total, x_tiles, preserve_unit_loops=True)
    # Padding is a condition on the address. It is constant across a vector, so LLVM hoists it out
    # of the unrolled tile: on x86 twice as fast as a padded copy of the input.
    for block in sch.get_producers(total):
        sch.compute_inline(block)

    *_, ty, tx, tc, ry, rx = sch.get_loops(total)
    sch.reorder(ry, rx, ty, tx, tc)
    sum_in_registers(sch, total, ry, [ry, rx], [ty, tx, tc], lanes)
    keep_in_registers(sch, [y_tile, x_tile, c_vector], c_lane)


def _loads(workload: Depthwise, tile_y: int, tile_x: int) -> float:
    """Return the vectors of inputs and taps that a tile loads per output."""
    rows, columns = workload.window.inputs(tile_y, tile_x)
    return (rows * columns + workload.window.taps) / (tile_y * tile_x)


def _tiles(workload: Depthwise, target: Target) -> list[tuple[int, int, int]]:
    """Return the output tiles whose accumulators, taps and inputs fit the registers."""
    lanes = lanes_of(workload, target)
    rows, columns = workload.output
    limit = target.vector_registers - 2
    return [
        (tile_y, tile_x, vectors * lanes)
        for tile_y in divisors(rows, 4)
        for tile_x in divisors(columns, 14)
        for vectors in divisors(workload.channels // lanes, limit)
        if tile_y * tile_x * vectors <= limit
        and fits_stack(tile_y * tile_x * vectors * lanes, workload.types.sums)
    ]


SCHEDULE = DepthwiseConvolution()
