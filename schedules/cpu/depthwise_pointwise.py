"""Depthwise and pointwise in one function; the tensor between them stays in the L1 cache."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu import depthwise, pointwise
from mobilenet_tvm.schedules.cpu.base import CpuSchedule, function_of
from mobilenet_tvm.schedules.cpu.parts import add_parts, products_of_part, sums_of_products
from mobilenet_tvm.schedules.cpu.registers import (
    keep_in_registers,
    load_together,
    sum_in_registers,
    together,
    unrolled_inputs,
)
from mobilenet_tvm.schedules.loops import divisor_at_most, divisors
from mobilenet_tvm.schedules.stages import Epilogue
from mobilenet_tvm.schedules.workloads import DepthwisePointwise, size_of
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a fused layer.

    Parameters
    ----------
    lanes, tile_m, tile_n : int
        The pointwise register tile, as in `pointwise.Decision`; `tile_m` divides the
        output's width.
    tile_x : int
        Columns of the depthwise register tile; divides `tile_m`.
    """

    lanes: int
    tile_m: int
    tile_n: int
    tile_x: int

    @property
    def tile(self) -> tuple[int, int, int]:
        """The pointwise register tile."""
        return self.lanes, self.tile_m, self.tile_n


class FusedHalves(CpuSchedule[DepthwisePointwise, Decision]):
    """Computes the depthwise half of each tile of pixels just before the pointwise half."""

    workload_type = DepthwisePointwise
    decision_type = Decision

    def pays(self, workload: DepthwisePointwise, target: Target) -> bool:
        """Return whether the memory traffic saved by fusing outweighs the restricted tiling.

        It does if the tensor between the halves would not fit the second-level cache. With a
        stride that tensor is small compared with the input, which a separate function reads
        faster: 321 us unfused and 373 us fused for MobileNetV2's first such layer. The matrix has
        to stay in that cache, since each tile of pixels reads it.
        """
        first = workload.depthwise
        rows, columns = first.output
        # A batch passes through the cache image by image.
        between = size_of(first.types.result) * rows * columns * first.channels
        matrix = size_of(workload.types.weights) * first.channels * workload.outputs
        fits = matrix <= target.l2_bytes / 2
        return first.window.stride == (1, 1) and between > target.l2_bytes and fits

    def default(self, workload: DepthwisePointwise, target: Target) -> Decision:
        """Choose the tiles from the target's description alone."""
        columns = workload.depthwise.output[1]
        tile = pointwise.best_tile(workload.pointwise, target, columns)
        narrow = divisor_at_most(tile[1], 8)
        return Decision(*tile, tile_x=narrow if narrow > 1 else tile[1])

    def space(self, workload: DepthwisePointwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        columns = workload.depthwise.output[1]
        tiles = pointwise.SCHEDULE.space(workload.pointwise, target)["tile"]
        return {
            "tile": [tile for tile in tiles if columns % tile[1] == 0],
            "tile_x": divisors(columns, 14),
        }

    def valid(self, workload: DepthwisePointwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        fits = decision.tile in self.space(workload, target)["tile"]
        return fits and decision.tile_x >= 1 and decision.tile_m % decision.tile_x == 0

    def decisions(self, workload: DepthwisePointwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        parts = self.space(workload, target)
        return [
            Decision(lanes, tile_m, tile_n, tile_x)
            for (lanes, tile_m, tile_n), tile_x in itertools.product(parts["tile"], parts["tile_x"])
            if tile_m % tile_x == 0
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return the taps unchanged and the matrix in panels."""
        taps, matrix = weights
        return [np.ascontiguousarray(taps), pointwise.in_panels(matrix, decision.tile_n)]

    def build(
        self, workload: DepthwisePointwise, decision: Decision, target: Target
    ) -> tirx.PrimFunc:
        """Return a function of data and an output in NHWC."""
        data, parameters, result = stages(workload, decision)
        sch = s_tir.Schedule(function_of([data, *parameters, result], target))
        schedule_halves(sch, decision, workload, target)
        return sch.mod["main"]

    def features(
        self, workload: DepthwisePointwise, decision: Decision, target: Target
    ) -> dict[str, float]:
        """Describe a decision: the product's tile and how the depthwise half divides it."""
        found = pointwise.product_features(workload.pointwise, decision.tile, target)
        return found | {"columns": decision.tile_m / decision.tile_x}

    def cycles(self, workload: DepthwisePointwise, decision: Decision, target: Target) -> float:
        """Estimate the cycles of the pointwise half."""
        return pointwise.tile_cycles(workload.pointwise, target, *decision.tile)


def stages(
    workload: DepthwisePointwise, decision: Decision, data: te.Tensor | None = None
) -> tuple[te.Tensor, list[te.Tensor], te.Tensor]:
    """Return the data, the other parameters in order, and the result.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    decision : Decision
        Determines the width of a panel of weights.
    data : te.Tensor, optional
        The input of the depthwise half, if another stage computes it.
    """
    first = workload.depthwise
    tile_n = decision.tile_n
    panels = -(-workload.outputs // tile_n)
    inner = Epilogue(first, first.output_shape)
    data, taps, filtered = depthwise.sums(first, inner, "taps", data)
    middle = inner.stage(lambda *i: filtered[i], "between")
    pixels = first.output_shape[:3]
    outer = Epilogue(workload, (*pixels, workload.outputs))
    packed = (panels, first.channels, tile_n)
    weight = te.placeholder(packed, workload.types.weights, name="weight")
    product = sums_of_products(
        (*pixels, panels * tile_n),
        first.channels,
        workload.types,
        outer,
        lambda n, y, x, c, k: middle[n, y, x, k] * weight[c // tile_n, k, c % tile_n],
    )
    result = outer.stage(lambda *i: product[i])
    return data, [taps, *inner.operands, weight, *outer.operands], result


def schedule_halves(
    sch: s_tir.Schedule,
    decision: Decision,
    workload: DepthwisePointwise,
    target: Target,
    rows: int = 1,
) -> LoopRV:
    """Schedule both halves; return the parallel loop, over bands of `rows` output rows."""
    channels = workload.depthwise.channels
    lanes = depthwise.lanes_of(workload.depthwise, target)
    group = together(workload.types, target)
    product, result = sch.get_sblock("pointwise"), sch.get_sblock("epilogue")
    filtered, middle = sch.get_sblock("depthwise"), sch.get_sblock("between")
    n, y, x, c = sch.get_loops(result)
    x_tiles, x_tile = sch.split(x, [None, decision.tile_m])
    c_panels, c_vector, c_lane = sch.split(
        c, [None, decision.tile_n // decision.lanes, decision.lanes]
    )
    bands, row = sch.split(y, [None, rows])
    sch.reorder(n, bands, row, x_tiles, c_panels, x_tile, c_vector, c_lane)
    band = sch.fuse(n, bands)
    sch.parallel(band)

    add_parts(sch, product, c_panels, decision.lanes)
    *_, row, column, k = sch.get_loops(product)
    sch.reorder(k, row, column)
    unrolled = []
    part = products_of_part(channels, workload.types)
    step = unrolled_inputs(part, workload.types, target)
    if group > 1 and step > 1:
        k, k_inner = sch.split(k, [None, step])
        unrolled = load_together(sch, product, k_inner, math.gcd(step, group))
    sum_in_registers(sch, product, k, unrolled, [row, column], decision.lanes)
    keep_in_registers(sch, [x_tile, c_vector], c_lane)

    sch.compute_at(middle, x_tiles, preserve_unit_loops=True)
    *_, column, channel = sch.get_loops(middle)
    columns, pixel = sch.split(column, [None, decision.tile_x])
    channels, lane = sch.split(channel, [None, lanes])
    sch.reorder(channels, columns, pixel, lane)
    keep_in_registers(sch, [pixel], lane)
    sch.compute_at(filtered, columns, preserve_unit_loops=True)
    for block in sch.get_producers(filtered):
        sch.compute_inline(block)
    *_, ty, tx, tc, ry, rx = sch.get_loops(filtered)
    sch.reorder(ry, rx, ty, tx, tc)
    sum_in_registers(sch, filtered, ry, [ry, rx], [ty, tx, tc], lanes)
    return band


SCHEDULE = FusedHalves()
