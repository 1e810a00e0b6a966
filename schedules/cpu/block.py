"""A block in one function: convolution, depthwise and pointwise, computed in bands of rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, tirx

from mobilenet_tvm.schedules.base import Array, default_decision
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu import depthwise_pointwise, pointwise, stem
from mobilenet_tvm.schedules.cpu.base import CpuSchedule, function_of
from mobilenet_tvm.schedules.cpu.registers import fits_registers, keep_in_registers
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.stages import Epilogue
from mobilenet_tvm.schedules.workloads import Block, Convolution, Pointwise, Types, size_of
from mobilenet_tvm.targets.target import Target

#: Share of the second-level cache for a band; the rest is for weights, input and output.
BAND_SHARE_OF_L2 = 0.75
#: Enough bands to keep this many threads busy.
MIN_BANDS = 4
#: More rows than any current cache holds.
MAX_ROWS = 128
#: Tiles within this factor of the lowest modelled cycles are candidates.
MAX_SLOWDOWN = 1.15
#: Recomputed multiply-adds per value of the convolution's result that are cheaper than storing
#: and reloading the value: 8 bytes, at a few flops per byte of the outer caches' bandwidth.
MAX_RECOMPUTED = 8


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a block.

    Parameters
    ----------
    rows : int
        Output rows of a band; divides the output's height. The rows of the convolution's result
        that a band needs, which overlap with the next band's, are computed into a buffer.
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
        """The decision for the convolution."""
        return stem.Decision(self.first_x, self.first_c)

    @property
    def halves(self) -> depthwise_pointwise.Decision:
        """The decision for the other two layers."""
        return depthwise_pointwise.Decision(self.lanes, self.tile_m, self.tile_n, self.tile_x)


class BandedBlock(CpuSchedule[Block, Decision]):
    """Computes a band of the convolution's rows into a buffer, then the other layers from it."""

    workload_type = Block
    decision_type = Decision

    def pays(self, workload: Block, target: Target) -> bool:
        """Return whether the memory traffic saved by fusing outweighs the recomputed rows.

        It does if the convolution's result would not fit the second-level cache, but overlapping
        bands of it do without much recomputation.
        """
        first = workload.first
        height, width = first.output
        if size_of(first.types.result) * height * width * first.outputs <= target.l2_bytes:
            return False
        recomputed = _recomputed(workload, _rows(workload, target))
        return recomputed * first.window.taps * first.inputs <= MAX_RECOMPUTED

    def default(self, workload: Block, target: Target) -> Decision:
        """Choose bands that fit the second-level cache, and the default tiles of each layer."""
        first = _first_tile(workload.first, target)
        halves = default_decision(depthwise_pointwise.SCHEDULE, workload.halves, target)
        rows = _rows(workload, target)
        return Decision(rows, *vars(first).values(), *vars(halves).values())

    def space(self, workload: Block, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        halves = depthwise_pointwise.SCHEDULE.space(workload.halves, target)
        return {
            "rows": _bands(workload.halves.depthwise.output[0]),
            "first": _first_tiles(workload.first, target),
            **halves,
        }

    def decisions(self, workload: Block, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, except those with tiles predicted to be slow.

        There are too many combinations to measure or even to predict all of them.
        """
        product = workload.halves.pointwise
        parts = self.space(workload, target)
        firsts = _near_best(parts["first"], lambda tile: _expansion_cycles(workload, tile, target))
        tiles = _near_best(
            parts["tile"], lambda tile: pointwise.tile_cycles(product, target, *tile)
        )
        return [
            Decision(rows, first_x, first_c, lanes, tile_m, tile_n, tile_x)
            for rows, (first_x, first_c), (lanes, tile_m, tile_n), tile_x in itertools.product(
                parts["rows"], firsts, tiles, parts["tile_x"]
            )
            if tile_m % tile_x == 0 and rows >= 2
        ]

    def valid(self, workload: Block, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return (
            decision.rows in self.space(workload, target)["rows"]
            and (decision.first_x, decision.first_c) in _first_tiles(workload.first, target)
            and depthwise_pointwise.SCHEDULE.valid(workload.halves, decision.halves, target)
        )

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return the weights of all three layers, packed for their own schedules."""
        first, *halves = weights
        if first.ndim == 4:
            packed = stem.SCHEDULE.pack([first], decision.first)
        else:  # The matrix of an expansion is a window with one tap.
            window = first[np.newaxis, np.newaxis]
            packed = [stem.in_panels(window, decision.first_c)]
        return [
            *packed,
            *depthwise_pointwise.SCHEDULE.pack(halves, decision.halves),
        ]

    def build(self, workload: Block, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data, in the first layer's layout, and an output in NHWC."""
        first = workload.first
        epilogue = Epilogue(first, first.output_shape)
        data, weight, total = stem.sums(first, epilogue, decision.first)
        expanded = epilogue.stage(lambda *i: total[i], "expanded")
        _, parameters, result = depthwise_pointwise.stages(
            workload.halves, decision.halves, expanded
        )
        arguments = [data, weight, *epilogue.operands, *parameters, result]
        sch = s_tir.Schedule(function_of(arguments, target))
        band = depthwise_pointwise.schedule_halves(
            sch, decision.halves, workload.halves, target, decision.rows
        )
        lanes = stem.lanes_of(first, target)
        stage = sch.get_sblock("expanded")
        sch.compute_at(stage, band, preserve_unit_loops=True)
        *_, y, x, c = sch.get_loops(stage)
        x_tiles, x_tile = sch.split(x, [None, decision.first_x])
        c_tiles, c_vector, c_lane = sch.split(c, [None, decision.first_c // lanes, lanes])
        # All channels of a few pixels, then the next pixels: writes the buffer in order.
        sch.reorder(y, x_tiles, c_tiles, x_tile, c_vector, c_lane)
        total = sch.get_sblock("conv2d")
        sch.compute_at(total, c_tiles, preserve_unit_loops=True)
        for pad in sch.get_producers(total):
            sch.compute_at(pad, y)
        stem.hold_sums(sch, first, target)
        keep_in_registers(sch, [x_tile, c_vector], c_lane)
        return sch.mod["main"]

    def features(self, workload: Block, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: both tiles and the band's share of the cache."""
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
        """Estimate the cycles of both matrix products, including the rows that bands recompute."""
        window = workload.halves.depthwise.window
        recomputed = 1 + (window.kernel[0] - window.stride[0]) / decision.rows
        tile = (decision.first_x, decision.first_c)
        first = _expansion_cycles(workload, tile, target)
        halves = depthwise_pointwise.SCHEDULE.cycles(workload.halves, decision.halves, target)
        return recomputed * first + halves


def _rows(workload: Block, target: Target) -> int:
    """Return the largest number of rows per band that fits the second-level cache."""
    depthwise = workload.halves.depthwise
    row_bytes = size_of(depthwise.types.data) * depthwise.width * depthwise.channels
    fitting = [
        rows
        for rows in _bands(depthwise.output[0])
        if _band_height(workload, rows) * row_bytes <= BAND_SHARE_OF_L2 * target.l2_bytes
    ]
    return max(fitting, default=1)


def _bands(height: int) -> list[int]:
    """Return the possible rows of a band, such that there are at least `MIN_BANDS` bands."""
    return [rows for rows in divisors(height, MAX_ROWS) if height // rows >= MIN_BANDS] or [1]


def _band_height(workload: Block, rows: int) -> int:
    """Return how many rows of the convolution's result a band needs."""
    depthwise = workload.halves.depthwise
    return min(depthwise.height, depthwise.window.inputs(rows, 1)[0])


def _recomputed(workload: Block, rows: int) -> float:
    """Return the share of the convolution's rows that are computed more than once."""
    bands = workload.halves.depthwise.output[0] // rows
    return bands * _band_height(workload, rows) / workload.first.output[0] - 1


def _first_tile(workload: Convolution, target: Target) -> stem.Decision:
    if not stem.is_expansion(workload):
        return stem.SCHEDULE.default(workload, target)
    height, width = workload.output
    product = Pointwise(height * width, workload.inputs, workload.outputs, types=workload.types)
    lanes = stem.lanes_of(workload, target)

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        return pointwise.tile_cycles(product, target, lanes, *tile), -tile[0]

    return stem.Decision(*min(_first_tiles(workload, target), key=cost))


def _first_tiles(workload: Convolution, target: Target) -> list[tuple[int, int]]:
    """Return the register tiles of the convolution; of an expansion, those that a product has."""
    lanes = stem.lanes_of(workload, target)
    return [
        (tile_x, tile_c)
        for tile_x, tile_c in stem.SCHEDULE.space(workload, target)["tile"]
        if not stem.is_expansion(workload) or fits_registers(target, tile_x, tile_c // lanes)
    ]


def _expansion_cycles(workload: Block, tile: tuple[int, int], target: Target) -> float:
    """Estimate the cycles of the convolution as a matrix product."""
    first = workload.first
    height, width = first.output
    inputs = first.window.taps * first.inputs
    types = Types.of(stem.product_type(first))
    product = Pointwise(height * width, inputs, first.outputs, types=types)
    return pointwise.tile_cycles(product, target, stem.lanes_of(first, target), *tile)


def _near_best(tiles: list[Any], cost: Callable[[Any], float]) -> list[Any]:
    """Return the tiles whose modelled cycles are close to the best."""
    least = min(map(cost, tiles))
    return [tile for tile in tiles if cost(tile) <= MAX_SLOWDOWN * least]


SCHEDULE = BandedBlock()
