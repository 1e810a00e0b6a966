"""Depthwise convolution on a GPU: a thread computes a strip of pixels of a vector of channels.

A row of inputs stays in registers while the taps of a kernel row are applied. Neighbouring threads
compute neighbouring channels, so their loads are coalesced and they reach the border together.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.gpu.base import GpuSchedule
from mobilenet_tvm.schedules.gpu.threads import (
    ADDRESS_REGISTERS,
    GROUP_SIZES,
    arithmetic,
    bind_threads,
    clamped,
    copy_in_vectors,
    fma_per_cycle,
    gpu_of,
    guarded,
    inside,
    lanes_of,
    nearest,
    overlapped,
    resident_threads,
    unroll,
    words,
)
from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import Depthwise, size_of
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target

#: The blocks that `inlined` creates, in the order in which they can be inlined.
STAGES = ("between", "depthwise", "pad", "taps")


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a depthwise layer.

    Parameters
    ----------
    tile_x : int
        Columns of a thread's strip.
    group : int
        Threads of a work-group.
    """

    tile_x: int
    group: int


class GpuDepthwise(GpuSchedule[Depthwise, Decision]):
    """A thread computes a strip of pixels of a vector of channels."""

    workload_type = Depthwise
    decision_type = Decision

    def default(self, workload: Depthwise, target: Target) -> Decision:
        """Choose the strip with the fewest cycles according to the GPU model."""
        candidates = [
            Decision(tile_x, GROUP_SIZES[0]) for tile_x in self.space(workload, target)["tile_x"]
        ]
        return min(candidates, key=lambda decision: self.cycles(workload, decision, target))

    def space(self, workload: Depthwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        gpu = gpu_of(target)
        widest = min(workload.output[1], 8)
        strips = [Decision(columns, GROUP_SIZES[0]) for columns in range(1, widest + 1)]
        return {
            "tile_x": [
                strip.tile_x
                for strip in strips
                if strip.tile_x == 1 or self.registers(workload, strip, gpu) <= gpu.registers
            ],
            "group": [group for group in GROUP_SIZES if group <= gpu.group_threads],
        }

    def valid(self, workload: Depthwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        parts = self.space(workload, target)
        return decision.tile_x in parts["tile_x"] and decision.group in parts["group"]

    def decisions(self, workload: Depthwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        return list(
            itertools.starmap(Decision, itertools.product(*self.space(workload, target).values()))
        )

    def build(self, workload: Depthwise, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function."""
        channels, (rows, columns) = workload.channels, workload.output
        dtype = arithmetic(workload.types.data, gpu_of(target))
        strips = -(-columns // decision.tile_x)
        # The last strip is full; what it computes beyond the image is not stored.
        wide = strips * decision.tile_x
        data, weight, product = products(workload, wide, workload.batch * rows, dtype)
        ry = te.reduce_axis((0, workload.window.kernel[0]), name="ry")
        rx = te.reduce_axis((0, workload.window.kernel[1]), name="rx")
        total = te.compute(
            (workload.batch * rows, wide, channels),
            lambda row, x, c: te.sum(product(row, x, c, ry, rx), axis=[ry, rx]),
            name="depthwise",
        )
        shape = (workload.batch, rows, columns, channels)
        operands, result = epilogue_stage(
            workload, shape, lambda n, y, x, c: total[n * rows + y, x, c]
        )
        sch = s_tir.Schedule(te.create_prim_func([data, weight, *operands, result]))
        lanes = math.gcd(channels, lanes_of(dtype))
        return _schedule(sch, decision, lanes, workload.batch * rows * strips * channels // lanes)

    def registers(self, workload: Depthwise, decision: Decision, gpu: Gpu) -> int:
        """Return a thread's registers: sums, a row of inputs, a tap, and addresses."""
        vectors = decision.tile_x + strip_inputs(workload, decision) + 1
        dtype = arithmetic(workload.types.data, gpu)
        return words(dtype, lanes_of(dtype) * vectors) + ADDRESS_REGISTERS

    def cycles(self, workload: Depthwise, decision: Decision, target: Target) -> float:
        """Estimate the cycles of a layer."""
        gpu = gpu_of(target)
        rows, columns = workload.output
        kernel_rows, kernel_columns = workload.window.kernel
        lanes = lanes_of(arithmetic(workload.types.data, gpu))
        strips = workload.batch * rows * -(-columns // decision.tile_x)
        # The wasted work of a partial last strip is counted below; its conditional stores here.
        ragged = 1.1 if columns % decision.tile_x else 1.0
        warps = strips * -(-workload.channels // lanes) / gpu.lockstep
        row = strip_inputs(workload, decision)
        # Two columns, and all taps except those of the middle row, are masked at the border.
        masks = 2 * kernel_rows + (kernel_rows - 1) * kernel_columns
        operations = lanes * (kernel_rows * kernel_columns * decision.tile_x + masks)
        multiply = operations * gpu.lockstep / fma_per_cycle(workload.types.data, gpu)
        lines = size_of(workload.types.data) * lanes * gpu.lockstep / gpu.load_bytes_per_cycle
        load = kernel_rows * (row + kernel_columns) * lines
        busy = ragged * warps * overlapped(multiply, load) / gpu.units
        resident = resident_threads(gpu, self.registers(workload, decision, gpu)) / gpu.lockstep
        # `resident` is 0 if even a strip of one pixel does not fit, and the thread spills.
        rounds = max(1.0, warps / gpu.units / (resident or 1.0))
        return overlapped(busy, rounds * kernel_rows * gpu.load_latency)


def _schedule(sch: s_tir.Schedule, decision: Decision, lanes: int, count: int) -> tirx.PrimFunc:
    total, result = sch.get_sblock("depthwise"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    x_strips, x_strip = sch.split(x, [None, decision.tile_x])
    c_vectors, c_lane = sch.split(c, [None, lanes])
    sch.reorder(n, y, x_strips, c_vectors, x_strip, c_lane)
    sch.compute_at(total, c_vectors, preserve_unit_loops=True)
    threads = bind_threads(sch, [n, y, x_strips, c_vectors], decision.group)
    sch.set_scope(total, 0, "local")

    *_, tx, tc, ry, rx = sch.get_loops(total)
    sch.reorder(ry, rx, tx, tc)
    copy_in_vectors(sch, sch.get_sblock("pad"), ry, lanes)
    copy_in_vectors(sch, sch.get_sblock("taps"), rx, lanes)
    unroll(sch, [ry, rx, tx])
    sch.vectorize(tc)
    init = sch.decompose_reduction(total, ry)
    *_, tx, tc = sch.get_loops(init)
    unroll(sch, [tx])
    sch.vectorize(tc)
    unroll(sch, [x_strip])
    sch.vectorize(c_lane)
    return guarded(sch, threads, count)


def products(
    workload: Depthwise, columns: int, rows: int, dtype: str
) -> tuple[te.Tensor, te.Tensor, Callable[..., Any]]:
    """Return the data, the weights and the summand of a depthwise convolution.

    The summand is a function of the row among those of all images, the column, the channel, and
    the row and column of the tap.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    columns, rows : int
        Of the result. Those beyond the output may hold any value.
    dtype : str
        Type to compute in.
    """
    shape = (workload.batch, workload.height, workload.width, workload.channels)
    data = te.placeholder(shape, workload.types.data, name="data")
    weight = te.placeholder(
        (*workload.window.kernel, workload.channels), workload.types.weights, name="filter"
    )
    stride_y, stride_x = workload.window.stride
    top, left, bottom, right = workload.window.padding
    height, width = workload.output
    source = clamped(data, (top, left, bottom, right + (columns - width) * stride_x), dtype)
    padded = workload.height + top + bottom
    # A tap on the top or bottom border is zero.
    taps = te.compute(
        (height, *weight.shape),
        lambda y, ry, rx, c: (
            weight[ry, rx, c].astype(dtype)
            * inside(y * stride_y + ry - top, workload.height, top, padded, dtype)
        ),
        name="taps",
    )

    def product(row: Any, x: Any, c: Any, ry: Any, rx: Any) -> Any:
        row = nearest(row, workload.batch * height, 0, rows)
        y = row % height
        pixel = source[row // height, y * stride_y + ry, x * stride_x + rx, c]
        return pixel * taps[y, ry, rx, c]

    return data, weight, product


def inlined(
    workload: Depthwise, pixels: int, dtype: str
) -> tuple[te.Tensor, list[te.Tensor], Callable[[Any, Any], Any]]:
    """Return the data, the parameters, and a function from a pixel and a channel to the result.

    For a kernel that computes the results where it needs them: the caller must inline their blocks,
    named by `STAGES`. They contain no reduction, so any index expression is allowed.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    pixels : int
        Number of pixels; those beyond the output may have any value.
    dtype : str
        Type to compute in.
    """
    columns = workload.output[1]
    rows = -(-pixels // columns)
    data, weight, product = products(workload, columns, rows, dtype)
    places = list(itertools.product(*map(range, workload.window.kernel)))
    total = te.compute(
        (rows, columns, workload.channels),
        lambda row, x, c: functools.reduce(
            operator.add, (product(row, x, c, ry, rx) for ry, rx in places)
        ),
        name="depthwise",
    )
    operands, result = epilogue_stage(workload, total.shape, lambda *i: total[i], "between")
    parameters = [weight, *operands]
    return data, parameters, lambda m, c: result[m // columns, m % columns, c]


def strip_inputs(workload: Depthwise, decision: Decision) -> int:
    """Return the number of input columns that a strip reads."""
    return (decision.tile_x - 1) * workload.window.stride[1] + workload.window.kernel[1]


SCHEDULE = GpuDepthwise()
