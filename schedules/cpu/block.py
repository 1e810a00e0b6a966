"""A block in one function: convolution, depthwise, pointwise, by bands of rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Array, default_decision
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu import depthwise_pointwise, pointwise, stem
from mobilenet_tvm.schedules.cpu.base import CpuSchedule
from mobilenet_tvm.schedules.cpu.registers import keep_in_registers
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import Block, Convolution, Pointwise, size_of
from mobilenet_tvm.targets.target import Target

#: Of the second-level cache for a band; the rest is for weights, input and output.
SHARE_OF_CACHE = 0.75
#: So many threads find work.
MIN_BANDS = 4
#: Larger bands than any cache of today holds.
MAX_ROWS = 128
#: Tiles whose modelled cycles are within this factor of the fewest are candidates.
MAX_SLOWDOWN = 1.15
#: Repeated multiply-adds per value of the convolution's result that cost less than to store the
#: value and load it again: 8 bytes, at some flops per byte of the outer caches' bandwidth.
MAX_REPEATED = 8


@dataclass(frozen=True)
class Decision(BaseDecision):
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


class BandedBlock(CpuSchedule[Block, Decision]):
    """Computes a band of the convolution's rows into a buffer, and the other layers from it."""

    workload_type = Block
    decision_type = Decision

    def pays(self, workload: Block, target: Target) -> bool:
        """Tell whether fusing saves more memory traffic than its repeated rows cost.

        It does where the convolution's result would leave the second-level cache, and bands of it,
        which overlap, fit without repeating much.
        """
        first = workload.first
        height, width = first.output
        if size_of(first.types.result) * height * width * first.outputs <= target.l2_bytes:
            return False
        repeated = _repeated(workload, _rows(workload, target))
        return repeated * first.window.taps * first.inputs <= MAX_REPEATED

    def default(self, workload: Block, target: Target) -> Decision:
        """Choose bands that fit the second-level cache, and each layer's own tiles."""
        first = _first(workload.first, target)
        halves = default_decision(depthwise_pointwise.SCHEDULE, workload.halves, target)
        rows = _rows(workload, target)
        return Decision(rows, *vars(first).values(), *vars(halves).values())

    def space(self, workload: Block, target: Target) -> dict[str, list[Any]]:
        """Return the candidates for each part of a decision."""
        halves = depthwise_pointwise.SCHEDULE.space(workload.halves, target)
        return {
            "rows": _bands(workload.halves.depthwise.output[0]),
            "first": stem.SCHEDULE.space(workload.first, target)["tile"],
            **halves,
        }

    def decisions(self, workload: Block, target: Target) -> list[Decision]:
        """Return the valid decisions of the space, each once, without tiles that cannot be good.

        All combinations are too many to measure, or even to predict.
        """
        product = workload.halves.pointwise
        parts = self.space(workload, target)
        firsts = _cheap(parts["first"], lambda tile: _expansion_cycles(workload, tile, target))
        tiles = _cheap(parts["tile"], lambda tile: pointwise.tile_cycles(product, target, *tile))
        return [
            Decision(rows, first_x, first_c, lanes, tile_m, tile_n, tile_x)
            for rows, (first_x, first_c), (lanes, tile_m, tile_n), tile_x in itertools.product(
                parts["rows"], firsts, tiles, parts["tile_x"]
            )
            if tile_m % tile_x == 0 and rows >= 2
        ]

    def valid(self, workload: Block, decision: Decision, target: Target) -> bool:
        """Tell whether `build` takes a decision."""
        return (
            decision.rows in self.space(workload, target)["rows"]
            and stem.SCHEDULE.valid(workload.first, decision.first, target)
            and depthwise_pointwise.SCHEDULE.valid(workload.halves, decision.halves, target)
        )

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return all three layers' weights as their own schedules read them."""
        first, *halves = weights
        # An expansion's matrix is a window of one tap.
        window = first if first.ndim == 4 else first[np.newaxis, np.newaxis]
        return [
            *stem.SCHEDULE.pack([window], decision.first),
            *depthwise_pointwise.SCHEDULE.pack(halves, decision.halves),
        ]

    def build(self, workload: Block, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data, as the first layer reads it, and an output in NHWC."""
        first = workload.first
        data, weight, total = stem.sums(first, decision.first)
        operands, expanded = epilogue_stage(first, total.shape, lambda *i: total[i], "expanded")
        _, parameters, result = depthwise_pointwise.stages(
            workload.halves, decision.halves, expanded
        )
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

    def features(self, workload: Block, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: both tiles, and the band's share of the cache."""
        first, depthwise = workload.first, workload.halves.depthwise
        row_bytes = size_of(first.types.result) * depthwise.width * depthwise.channels
        band = depthwise.window.inputs(decision.rows, 1)[0]
        halves = depthwise_pointwise.SCHEDULE.features(workload.halves, decision.halves, target)
        tile = stem.SCHEDULE.features(first, decision.first, target)
        bands = depthwise.output[0] / decision.rows
        return (
            halves
            | {f"first_{name}": value for name, value in tile.items()}
            | {
                "band_share_of_l2": band * row_bytes / target.l2_bytes,
                "repeated": bands * band / depthwise.height - 1,
                "chunks": depthwise.batch * bands,
            }
        )

    def cycles(self, workload: Block, decision: Decision, target: Target) -> float:
        """Estimate the cycles of the two products, with the rows that bands repeat."""
        window = workload.halves.depthwise.window
        repeated = 1 + (window.kernel[0] - window.stride[0]) / decision.rows
        tile = (decision.first_x, decision.first_c)
        first = _expansion_cycles(workload, tile, target)
        halves = depthwise_pointwise.SCHEDULE.cycles(workload.halves, decision.halves, target)
        return repeated * first + halves


def _rows(workload: Block, target: Target) -> int:
    """Return the most rows per band that leave a band for each of some threads."""
    depthwise = workload.halves.depthwise
    row_bytes = size_of(depthwise.types.data) * depthwise.width * depthwise.channels
    fitting = [
        rows
        for rows in _bands(depthwise.output[0])
        if _band_height(workload, rows) * row_bytes <= SHARE_OF_CACHE * target.l2_bytes
    ]
    return max(fitting, default=1)


def _bands(height: int) -> list[int]:
    """Return the rows that a band may have: a library may be run with any number of threads."""
    return [rows for rows in divisors(height, MAX_ROWS) if height // rows >= MIN_BANDS] or [1]


def _band_height(workload: Block, rows: int) -> int:
    """Return how many of the convolution's rows a band needs."""
    depthwise = workload.halves.depthwise
    return min(depthwise.height, depthwise.window.inputs(rows, 1)[0])


def _repeated(workload: Block, rows: int) -> float:
    """Return the share of the convolution's rows that several bands compute."""
    bands = workload.halves.depthwise.output[0] // rows
    return bands * _band_height(workload, rows) / workload.first.output[0] - 1


def _first(workload: Convolution, target: Target) -> stem.Decision:
    if workload.window.kernel != (1, 1):
        return stem.SCHEDULE.default(workload, target)
    height, width = workload.output
    product = Pointwise(height * width, workload.inputs, workload.outputs, types=workload.types)
    lanes = stem.lanes_of(workload, target)
    tiles = stem.SCHEDULE.space(workload, target)["tile"]

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        return pointwise.tile_cycles(product, target, lanes, *tile), -tile[0]

    return stem.Decision(*min(tiles, key=cost))


def _expansion_cycles(workload: Block, tile: tuple[int, int], target: Target) -> float:
    """Estimate the cycles of the convolution as a product of matrices."""
    first = workload.first
    height, width = first.output
    inputs = first.window.taps * first.inputs
    product = Pointwise(height * width, inputs, first.outputs, types=first.types)
    return pointwise.tile_cycles(product, target, stem.lanes_of(first, target), *tile)


def _cheap(tiles: list[Any], cost: Callable[[Any], float]) -> list[Any]:
    """Return the tiles that the model of the inner loop finds little worse than the best."""
    least = min(map(cost, tiles))
    return [tile for tile in tiles if cost(tile) <= MAX_SLOWDOWN * least]


SCHEDULE = BandedBlock()
