"""Pointwise and depthwise convolution on integers in one function.

Only a chunk of the channels of a band of rows is between them at a time: what the depthwise layer
alone would copy into the first-level cache is computed there instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.dot import DOTS, Dot, dots_of
from mobilenet_tvm.schedules.cpu.dot.base import PARTS
from mobilenet_tvm.schedules.cpu.emit import load, parameter
from mobilenet_tvm.schedules.cpu.finish import Finish, finish_tile
from mobilenet_tvm.schedules.cpu.integer import amx_pointwise, depthwise, pointwise
from mobilenet_tvm.schedules.cpu.integer.base import (
    IntegerSchedule,
    copy_row,
    depth_of,
    in_order,
    is_interleaved,
    multiply,
    pack_panels,
)
from mobilenet_tvm.schedules.cpu.registers import tile_features
from mobilenet_tvm.schedules.loops import divisor_at_most, divisors
from mobilenet_tvm.schedules.workloads import (
    Depthwise,
    Pointwise,
    PointwiseDepthwise,
    Workload,
    size_of,
)
from mobilenet_tvm.targets.target import Target

#: Share of the first-level cache for a chunk of a band; the rest is for weights and inputs.
BAND_SHARE_OF_L1 = 0.75
#: Cycles by which a vector of bytes takes longer to store and load in the second-level cache.
FAR_CYCLES = 0.5
#: Cycles to begin a chunk of a band: its taps are loaded and shifted.
CHUNK_CYCLES = 1000.0
#: Halves are fused if the tensor between them is as large as this many first-level caches.
MIN_L1_CACHES = 4
#: Tiles within this factor of the lowest modelled cycles are candidates.
MAX_SLOWDOWN = 1.15


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a fused layer.

    Parameters
    ----------
    dot : str
        The instruction set, in whose order weights are packed.
    tile_m : int
        Pixels of a row in the register tile of the product.
    tile_n : int
        Vectors of outputs of that tile; divides those of a vector of bytes.
    tile_y, tile_x, band : int
        The depthwise half, as in `depthwise.Decision`. The rows of the product that a band needs,
        some of which the next one needs too, are computed for each.
    """

    dot: str
    tile_m: int
    tile_n: int
    tile_y: int
    tile_x: int
    band: int

    @property
    def filter(self) -> depthwise.Decision:
        """The decision for the depthwise half."""
        return depthwise.Decision(self.dot, self.tile_y, self.tile_x, self.band, False, True)


@dataclass(frozen=True)
class _Product:
    """Pixels of a chunk of channels that are computed by a pointwise layer.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    decision : Decision
        Has its register tile.
    data, weight : Buffer
        What it multiplies.
    finish : Finish
        Its epilogue.
    """

    workload: Pointwise
    decision: Decision
    data: Any
    weight: Any
    finish: Finish

    def fill(
        self, cells: depthwise.Cells, pixel: Any, columns: int, first: Any, count: int
    ) -> None:
        """Emit the products of some neighbouring pixels of a row."""
        dot, inputs = DOTS[self.decision.dot], self.workload.inputs
        depth = depth_of(inputs, dot)
        finish = self.finish.into(cells.buffer)
        vectors = -(-count // dot.lanes)
        wide = divisor_at_most(vectors, self.decision.tile_n)
        tile_n = wide * dot.lanes
        rows = min(self.decision.tile_m, columns)
        source, begin = self.data, T.bind(pixel * inputs)
        if dot.widened or depth != inputs:
            # Widened, or padded to whole groups.
            dtype = "int16" if dot.widened else self.workload.types.data
            source, begin = T.alloc_buffer((columns * depth,), dtype), 0
            with T.serial(0, columns) as column:
                place = T.bind((pixel + column) * inputs)
                copy_row(self.data, place, inputs, source, column * depth, depth, dot.lanes)
        with T.grid(vectors // wide, -(-columns // rows)) as (panel, tile):
            column = T.bind(T.min(tile * rows, columns - rows))
            channel = T.bind(first + panel * tile_n)
            packed, start = T.bind(channel * depth), T.bind(begin + column * depth)
            sums = multiply(
                dot,
                (rows, wide),
                depth,
                lambda row, k, size: load(source, start + (k + row * depth), size),
                lambda k, at, size: load(self.weight, packed + (k * tile_n + at), size),
                lambda vector: finish.start(dot.lanes, channel + vector * dot.lanes),
            )
            place = T.bind(cells.start + column * cells.step + panel * tile_n)
            finish_tile(dot, finish, sums, tile_n, channel, place, cells.step)


class FusedHalves(IntegerSchedule[PointwiseDepthwise, Decision]):
    """Computes a chunk of the channels of a band of rows, and slides the depthwise tile over it."""

    workload_type = PointwiseDepthwise
    decision_type = Decision

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer: bytes between halves of one kind."""
        if not isinstance(workload, PointwiseDepthwise) or not super().takes(workload, target):
            return False
        first, second = workload.pointwise, workload.depthwise
        same = dots_of(target, first.types) == dots_of(target, second.types)
        return same and is_interleaved(first) and is_interleaved(second)

    def pays(self, workload: PointwiseDepthwise, target: Target) -> bool:
        """Return whether what is between the halves is large compared to the first-level cache.

        One function then takes 0.8 to 1.0 times as long as two, with AVX-512 VNNI; for smaller
        tensors it is up to 1.2. AMX computes the pointwise half faster alone.
        """
        first = workload.pointwise
        between = size_of(first.types.result) * first.pixels * first.outputs
        large = between > MIN_L1_CACHES * target.l1d_bytes
        return large and not amx_pointwise.SCHEDULE.takes(first, target)

    def default(self, workload: PointwiseDepthwise, target: Target) -> Decision:
        """Choose the tiles and the band with the fewest cycles in a model of both halves."""
        tile = min(
            _tiles(workload, target), key=lambda tile: _product_cycles(workload, tile, target)
        )
        return min(
            (
                Decision(way.dot, *tile, way.tile_y, way.tile_x, way.band)
                for way in _filters(workload, target)
            ),
            key=lambda decision: self.cycles(workload, decision, target),
        )

    def space(self, workload: PointwiseDepthwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        parts = depthwise.SCHEDULE.space(workload.depthwise, target)
        return {"product": _tiles(workload, target), "tile": parts["tile"], "band": parts["band"]}

    def valid(self, workload: PointwiseDepthwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return (decision.tile_m, decision.tile_n) in _tiles(
            workload, target
        ) and depthwise.SCHEDULE.valid(workload.depthwise, decision.filter, target)

    def decisions(self, workload: PointwiseDepthwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, except those with products that are slow."""
        cycles = {
            tile: _product_cycles(workload, tile, target) for tile in _tiles(workload, target)
        }
        least = min(cycles.values())
        tiles = [tile for tile, cost in cycles.items() if cost <= MAX_SLOWDOWN * least]
        return [
            Decision(way.dot, *tile, way.tile_y, way.tile_x, way.band)
            for tile, way in itertools.product(tiles, _filters(workload, target))
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return the weights of both halves: panels, and chunks of taps."""
        matrix, taps = weights
        dot = DOTS[decision.dot]
        panels = [
            pack_panels(matrix[:, first:end], dot, tile_n, True)
            for first, end, tile_n in _panels(dot, decision, matrix.shape[1])
        ]
        return [np.concatenate(panels), *depthwise.SCHEDULE.pack([taps], decision.filter)]

    def arrange(self, operand: Array, decision: Decision, part: int = 0) -> Array:
        """Return values of the channels, padded and in the order of the sums of a half."""
        if part:
            return depthwise.SCHEDULE.arrange(operand, decision.filter)
        dot = DOTS[decision.dot]
        values = [
            in_order(operand[first:end], dot, tile_n, True)
            for first, end, tile_n in _panels(dot, decision, len(operand))
        ]
        return np.concatenate(values)

    def emit(self, workload: PointwiseDepthwise, decision: Decision, target: Target) -> None:
        """Emit data, then weights, the padding's value and operands of each half; the output."""
        first, dot = workload.pointwise, DOTS[decision.dot]
        outputs = -(-first.outputs // dot.lanes) * dot.lanes
        data = parameter("data", first.pixels * first.inputs, first.types.data)
        size = outputs * depth_of(first.inputs, dot)
        weight = parameter("weight", size, first.types.weights)
        finish = Finish(first, target, first.outputs, outputs, 0, True)
        product = _Product(first, decision, data, weight, finish)
        depthwise.emit_filter(workload.depthwise, decision.filter, target, product)

    def features(
        self, workload: PointwiseDepthwise, decision: Decision, target: Target
    ) -> dict[str, float]:
        """Describe a decision: the product's tile, the depthwise half's, and what is repeated."""
        dot = DOTS[decision.dot]
        tile = tile_features(
            decision.tile_m, decision.tile_n, decision.tile_m, decision.tile_n, target
        )
        columns = workload.depthwise.width
        return (
            depthwise.SCHEDULE.features(workload.depthwise, decision.filter, target)
            | {f"product_{name}": value for name, value in tile.items()}
            | {
                "product_ragged": -columns % decision.tile_m / decision.tile_m,
                "repeated": _computed_rows(workload.depthwise, decision) / workload.depthwise.height
                - 1,
                "product_iterations": depth_of(workload.pointwise.inputs, dot) / dot.group,
                "cycles": self.cycles(workload, decision, target),
            }
        )

    def cycles(self, workload: PointwiseDepthwise, decision: Decision, target: Target) -> float:
        """Estimate the cycles of both halves, including the rows that bands recompute."""
        dot, second = DOTS[decision.dot], workload.depthwise
        rows = second.batch * _computed_rows(second, decision)
        chunks = -(-second.channels // dot.channels)
        tile = decision.tile_m, decision.tile_n
        product = rows * _product_cycles(workload, tile, target)
        height, width = second.output
        inner = depthwise.filter_cycles(second, decision.filter, target)
        filtered = second.batch * height * width * chunks * inner
        window = second.window.inputs(decision.tile_y * decision.band, 1)[0]
        far = window * second.width * dot.channels > BAND_SHARE_OF_L1 * target.l1d_bytes
        moved = far * FAR_CYCLES * rows * second.width * chunks
        bands = second.batch * height // (decision.tile_y * decision.band)
        few = 1.0 if bands * chunks >= depthwise.MIN_TASKS else 1.2
        return few * (product + filtered + moved + bands * chunks * CHUNK_CYCLES)


def _panels(dot: Dot, decision: Decision, outputs: int) -> list[tuple[int, int, int]]:
    """Return the first output of each chunk, the end, and the outputs of its register tile."""
    found = []
    for chunk in depthwise.chunks_of(dot, outputs):
        wide = divisor_at_most(-(-chunk.count // dot.lanes), decision.tile_n)
        end = chunk.first + chunk.repeats * chunk.count
        found.append((chunk.first, end, wide * dot.lanes))
    return found


def _tiles(workload: PointwiseDepthwise, target: Target) -> list[tuple[int, int]]:
    """Return the (pixels, vectors) of register tiles whose sums and operands fit the registers."""
    dot = dots_of(target, workload.types)[0]
    return [
        (rows, wide)
        for wide in divisors(PARTS, PARTS)
        for rows in range(1, min(workload.depthwise.width, 16) + 1)
        if dot.registers(rows, wide) <= target.vector_registers
    ]


def _filters(workload: PointwiseDepthwise, target: Target) -> list[depthwise.Decision]:
    """Return the decisions of the depthwise half, which reads a copy."""
    found = depthwise.SCHEDULE.decisions(workload.depthwise, target)
    return [decision for decision in found if not decision.direct]


def _computed_rows(workload: Depthwise, decision: Decision) -> int:
    """Return the rows of an image of the product that its bands compute."""
    high, window = decision.tile_y * decision.band, workload.window
    total = 0
    for top in range(0, workload.output[0], high):
        first = top * window.stride[0] - window.padding[0]
        end = first + window.inputs(high, 1)[0]
        total += max(0, min(end, workload.height) - max(first, 0))
    return total


def _product_cycles(workload: PointwiseDepthwise, tile: tuple[int, int], target: Target) -> float:
    """Estimate the cycles of a row of the product."""
    dot, rows = dots_of(target, workload.types)[0], tile[0]
    inputs, columns = workload.pointwise.inputs, workload.depthwise.width
    depth = depth_of(inputs, dot)
    total = 0.0
    for chunk in depthwise.chunks_of(dot, workload.pointwise.outputs):
        vectors = -(-chunk.count // dot.lanes)
        wide = divisor_at_most(vectors, tile[1])
        each = depth // dot.group * dot.cycles(rows, wide) + dot.finish_cycles(rows, wide)
        each += pointwise.TILE_CYCLES
        copied = columns * depth / dot.lanes if dot.widened or depth != inputs else 0.0
        total += chunk.repeats * (copied + -(-columns // rows) * (vectors // wide) * each)
    return total


SCHEDULE = FusedHalves()
