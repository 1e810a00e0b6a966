"""The stem: a full convolution of an image with few channels, in NCHW or NHWC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import CpuSchedule, function_of
from mobilenet_tvm.schedules.cpu.parts import MOST_PRODUCTS
from mobilenet_tvm.schedules.cpu.registers import (
    MIN_UNROLLED,
    fits_stack,
    keep_in_registers,
    load_together,
    sum_in_registers,
    tile_features,
    together,
)
from mobilenet_tvm.schedules.loops import divisor_at_most, divisors
from mobilenet_tvm.schedules.stages import Epilogue, padded
from mobilenet_tvm.schedules.workloads import Convolution, Workload
from mobilenet_tvm.targets.target import Target

#: Up to this many input channels, as an image has, are unrolled; more are a loop.
MAX_UNROLLED_INPUTS = 8


@dataclass(frozen=True)
class Decision(BaseDecision):
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


class Stem(CpuSchedule[Convolution, Decision]):
    """Keeps a tile of columns x outputs in registers while iterating over taps and inputs."""

    workload_type = Convolution
    decision_type = Decision

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        stem = isinstance(workload, Convolution) and workload.is_stem
        return stem and super().takes(workload, target)

    def default(self, workload: Convolution, target: Target) -> Decision:
        """Choose the register tile with the fewest loads per multiply-add."""
        lanes = lanes_of(workload, target)
        # Just enough sums to hide the latency; with more, fewer unrolled taps stay in registers.
        busy = target.fma_latency * target.fma_per_cycle
        tiles = [(x, c) for x, c in _tiles(workload, target) if x * c <= max(busy, 8) * lanes]
        return min(
            (Decision(*tile) for tile in tiles),
            key=lambda decision: (self.cycles(workload, decision, target), -decision.tile_x),
        )

    def space(self, workload: Convolution, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        return {"tile": sorted(_tiles(workload, target))}

    def valid(self, workload: Convolution, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return (decision.tile_x, decision.tile_c) in _tiles(workload, target)

    def decisions(self, workload: Convolution, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        return [Decision(*tile) for tile in self.space(workload, target)["tile"]]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights as [outputs / tile_c, kernel height, kernel width, inputs, tile_c]."""
        (weight,) = weights
        dtype = _products_in(str(weight.dtype), weight.size // weight.shape[-1])
        return [in_panels(weight.astype(dtype), decision.tile_c)]

    def build(self, workload: Convolution, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of an image, in NHWC or NCHW, and an output in NHWC."""
        epilogue = Epilogue(workload, workload.output_shape)
        data, weight, total = sums(workload, epilogue, decision)
        result = epilogue.stage(lambda *i: total[i])
        sch = s_tir.Schedule(function_of([data, weight, *epilogue.operands, result], target))
        _schedule(sch, workload, decision, target)
        return sch.mod["main"]

    def features(
        self, workload: Convolution, decision: Decision, target: Target
    ) -> dict[str, float]:
        """Describe a decision: the register tile and how much it unrolls."""
        lanes = lanes_of(workload, target)
        vectors = decision.tile_c / lanes
        taps = workload.window.taps * workload.inputs
        return tile_features(decision.tile_x, vectors, decision.tile_x, vectors, target) | {
            "share_of_lanes": lanes / target.lanes_of(product_type(workload)),
            "unrolled": decision.tile_x * vectors * taps / workload.window.kernel[0],
            "panels": workload.outputs / decision.tile_c,
            "taps": taps,
        }

    def cycles(self, workload: Convolution, decision: Decision, target: Target) -> float:
        """Estimate a decision's cost: loads per multiply-add, and latency that is not hidden."""
        tile_x, vectors = decision.tile_x, decision.tile_c // lanes_of(workload, target)
        work = tile_x * vectors
        busy = target.fma_latency * target.fma_per_cycle
        return max(1.0, busy / work) + (tile_x + vectors) / work


def in_panels(weight: Array, tile_c: int) -> Array:
    """Pack weights [kernel height, kernel width, inputs, outputs] by panels of outputs.

    Returns
    -------
    ndarray
        [outputs / tile_c, kernel height, kernel width, inputs, tile_c].
    """
    *window, outputs = weight.shape
    panels = weight.reshape(*window, outputs // tile_c, tile_c)
    return np.ascontiguousarray(panels.transpose(3, 0, 1, 2, 4))


def sums(
    workload: Convolution, epilogue: Epilogue, decision: Decision
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Return the data, the packed weights and the sums of a convolution.

    Parameters
    ----------
    workload : Convolution
        The layer.
    epilogue : Epilogue
        The steps on the sums.
    decision : Decision
        Determines the width of a panel of weights.
    """
    tile_c, window, kind = decision.tile_c, workload.window, product_type(workload)
    image = (workload.height, workload.width)
    nchw = workload.reads_nchw
    shape = (
        (workload.batch, workload.inputs, *image)
        if nchw
        else (workload.batch, *image, workload.inputs)
    )
    data = te.placeholder(shape, workload.types.data, name="data")
    panels = (workload.outputs // tile_c, *window.kernel, workload.inputs, tile_c)
    weight = te.placeholder(panels, kind, name="weight")
    source = padded(data, window.padding, nchw, dtype=kind)
    ry = te.reduce_axis((0, window.kernel[0]), name="ry")
    rx = te.reduce_axis((0, window.kernel[1]), name="rx")
    rc = te.reduce_axis((0, workload.inputs), name="rc")
    stride_y, stride_x = window.stride

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        row, column = y * stride_y + ry, x * stride_x + rx
        pixel = source[n, rc, row, column] if nchw else source[n, row, column, rc]
        tap = weight[c // tile_c, ry, rx, rc, c % tile_c]
        return epilogue.sum(pixel * tap, [ry, rx, rc], c, workload.outputs)

    return data, weight, te.compute(workload.output_shape, product, name="conv2d")


def _schedule(
    sch: s_tir.Schedule, workload: Convolution, decision: Decision, target: Target
) -> None:
    lanes = lanes_of(workload, target)
    total, result = sch.get_sblock("conv2d"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    x_tiles, x_tile = sch.split(x, [None, decision.tile_x])
    c_tiles, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    sch.reorder(n, y, c_tiles, x_tiles, x_tile, c_vector, c_lane)
    rows = sch.fuse(n, y)
    sch.parallel(rows)
    sch.compute_at(total, x_tiles, preserve_unit_loops=True)
    for pad in sch.get_producers(total):
        # The few padded rows of a thread stay in the first-level cache.
        sch.compute_at(pad, rows)

    hold_sums(sch, workload, target)
    keep_in_registers(sch, [x_tile, c_vector], c_lane)


def hold_sums(sch: s_tir.Schedule, workload: Convolution, target: Target) -> None:
    """Hold a tile's sums in registers while iterating over taps and inputs."""
    total = sch.get_sblock("conv2d")
    *_, tx, tc, ry, rx, rc = sch.get_loops(total)
    inputs, types = workload.inputs, workload.types
    # An expansion is a matrix product: a tile takes several inputs of its pixels at once.
    group = together(types, target) if is_expansion(workload) else 1
    unrolled = inputs
    if inputs > MAX_UNROLLED_INPUTS:
        unrolled = divisor_at_most(inputs, max(MIN_UNROLLED, 2 * group))
    rc_outer, rc_inner = sch.split(rc, [None, unrolled])
    sch.reorder(ry, rc_outer, rx, rc_inner, tx, tc)
    inner = load_together(sch, total, rc_inner, math.gcd(unrolled, group))
    sum_in_registers(sch, total, ry, [rx, *inner], [tx, tc], lanes_of(workload, target))


def is_expansion(workload: Convolution) -> bool:
    """Return whether a convolution is a matrix product of pixels by weights."""
    return workload.window.kernel == (1, 1) and not workload.reads_nchw


def lanes_of(workload: Convolution, target: Target) -> int:
    """Return the vector length: a divisor of the outputs."""
    return math.gcd(workload.outputs, target.lanes_of(product_type(workload)))


def product_type(workload: Convolution) -> str:
    """Return the type of a convolution's products, in which they are also added up."""
    dtype, products = workload.types.weights, workload.window.taps * workload.inputs
    return dtype if is_expansion(workload) else _products_in(dtype, products)


def _products_in(dtype: str, products: int) -> str:
    """Return the type of a stem's products, whose weights are of a type.

    A network of float16 reads a picture of float32, which is rounded if the sums are short. A
    pretrained V2 then names 999 of 1,000 pictures as in float32, as it does with a stem of float32;
    the median error is 0.40 instead of 0.29 % of the output's range.
    """
    return dtype if products <= MOST_PRODUCTS else "float32"


def _tiles(workload: Convolution, target: Target) -> list[tuple[int, int]]:
    """Return the register tiles whose accumulators and operands fit the registers."""
    lanes = lanes_of(workload, target)
    return [
        (tile_x, vectors * lanes)
        for tile_x in divisors(workload.output[1], 16)
        for vectors in divisors(workload.outputs // lanes, 4)
        if tile_x * vectors + vectors + 1 <= target.vector_registers
        and fits_stack(tile_x * vectors * lanes, workload.types.sums)
    ]


SCHEDULE = Stem()
