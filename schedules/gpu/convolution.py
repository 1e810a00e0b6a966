"""Convolution over many channels on a GPU: a register tile per thread, no shared memory, no im2col.

A thread multiplies the windows of `tile_x` neighbouring pixels by `tile_c` outputs. Neighbouring
threads compute neighbouring outputs of the same pixels: they read the same data and adjacent
weights.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.gpu.base import GpuSchedule
from mobilenet_tvm.schedules.gpu.threads import (
    ADDRESS_REGISTERS,
    GROUP_SIZES,
    MAX_LOAD_BYTES,
    arithmetic,
    bind_threads,
    copy_in_vectors,
    fma_per_cycle,
    gpu_of,
    guarded,
    inside,
    lanes_of,
    nearest,
    overlapped,
    resident_threads,
    store,
    unroll,
    words,
)
from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import Convolution, Workload
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a convolution.

    Parameters
    ----------
    tile_x : int
        Output columns of a thread.
    tile_c : int
        Output channels of a thread: full vectors, of one group.
    unroll_k : int
        Inputs per iteration of the innermost loop; divides those of a group.
    group : int
        Threads of a work-group.
    """

    tile_x: int
    tile_c: int
    unroll_k: int
    group: int


class GpuConvolution(GpuSchedule[Convolution, Decision]):
    """A register tile of pixels x outputs per thread, over all taps and inputs."""

    workload_type = Convolution
    decision_type = Decision
    dilates = True

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer: in NHWC, groups of whole vectors."""
        if not isinstance(workload, Convolution) or workload.reads_nchw:
            return False
        whole = workload.groups == 1 or _outputs(workload) % lanes_of(workload.types.weights) == 0
        return whole and super().takes(workload, target)

    def default(self, workload: Convolution, target: Target) -> Decision:
        """Choose the decision with the fewest cycles according to the GPU model."""
        candidates = [d for d in self.decisions(workload, target) if d.group == GROUP_SIZES[0]]
        return min(
            candidates, key=lambda d: (self.cycles(workload, d, target), -d.unroll_k, d.tile_x)
        )

    def space(self, workload: Convolution, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        gpu, lanes = gpu_of(target), lanes_of(workload.types.weights)
        vectors = -(-_outputs(workload) // lanes)
        tiles = itertools.product(
            range(1, min(workload.output[1], 8) + 1),
            [lanes * count for count in (1, 2, 4) if vectors % count == 0],
            [step for step in (1, 2, 4, 8) if _inputs(workload) % step == 0],
        )
        return {
            "tile": [
                tile
                for tile in tiles
                if tile == (1, lanes, 1)
                or self.registers(workload, Decision(*tile, 0), gpu) <= gpu.registers
            ],
            "group": [group for group in GROUP_SIZES if group <= gpu.group_threads],
        }

    def valid(self, workload: Convolution, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        parts = self.space(workload, target)
        tile = (decision.tile_x, decision.tile_c, decision.unroll_k)
        return tile in parts["tile"] and decision.group in parts["group"]

    def decisions(self, workload: Convolution, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        parts = self.space(workload, target)
        return [
            Decision(tile_x, tile_c, unroll_k, group)
            for (tile_x, tile_c, unroll_k), group in itertools.product(
                parts["tile"], parts["group"]
            )
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights with the outputs split: a thread's vectors outermost, lanes innermost.

        [tile_c / lanes, kernel height, kernel width, inputs, outputs / tile_c, lanes]: neighbouring
        threads read neighbouring vectors. The last ones are zero-padded.
        """
        (weight,) = weights
        *window, outputs = weight.shape
        lanes = lanes_of(str(weight.dtype))
        full = np.pad(weight, [(0, 0)] * len(window) + [(0, -outputs % decision.tile_c)])
        parts = full.reshape(*window, -1, decision.tile_c // lanes, lanes)
        return [np.ascontiguousarray(np.moveaxis(parts, -2, 0))]

    def build(self, workload: Convolution, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function."""
        types, window, inputs = workload.types, workload.window, _inputs(workload)
        tile_x, tile_c, lanes = decision.tile_x, decision.tile_c, lanes_of(types.weights)
        computed = arithmetic(types.data, gpu_of(target))
        rows, columns = workload.output
        strips, panels = -(-columns // tile_x), -(-workload.outputs // tile_c)
        shape = (workload.batch, workload.height, workload.width, workload.inputs)
        data = te.placeholder(shape, types.data, name="data")
        packed = (tile_c // lanes, *window.kernel, inputs, panels, lanes)
        weight = te.placeholder(packed, types.weights, name="weight")
        # What a thread reads, one element per tap and pixel; never a tensor in memory. The last
        # strip is full; what it computes beyond the image is not stored.
        taps = te.compute(
            (workload.batch, rows, strips * tile_x, *window.kernel, workload.inputs),
            functools.partial(_element, workload, data, strips * tile_x, computed),
            name="rows",
        )
        chunk = _chunk(workload, decision)
        ry, rx, k = (
            te.reduce_axis((0, size), name=name)
            for size, name in zip((*window.kernel, inputs // chunk), ("ry", "rx", "k"), strict=True)
        )
        panels_of_group = panels // workload.groups

        def products(n: Any, y: Any, x: Any, panel: Any, c: Any) -> Any:
            first = panel // panels_of_group * inputs
            terms = (
                taps[n, y, x, ry, rx, first + place]
                * weight[c // lanes, ry, rx, place, panel, c % lanes].astype(computed)
                for place in (k * chunk + step for step in range(chunk))
            )
            return te.sum(functools.reduce(operator.add, terms).astype(types.sums), [ry, rx, k])

        total = te.compute(
            (workload.batch, rows, strips * tile_x, panels, tile_c), products, name="conv2d"
        )
        operands, result = epilogue_stage(
            workload,
            workload.output_shape,
            lambda n, y, x, c: total[n, y, x, c // tile_c, c % tile_c],
        )
        sch = s_tir.Schedule(te.create_prim_func([data, weight, *operands, result]))
        count = workload.batch * rows * strips * panels
        return _schedule(sch, workload, decision, count, lanes_of(computed))

    def registers(self, workload: Convolution, decision: Decision, gpu: Gpu) -> int:  # noqa: ARG002
        """Return a thread's registers: sums, inputs of its pixels, weights, addresses."""
        types = workload.types
        inputs = decision.tile_x * decision.unroll_k
        weights = decision.tile_c * _chunk(workload, decision)
        return (
            words(types.sums, decision.tile_x * decision.tile_c)
            + words(types.data, inputs + weights)
            + ADDRESS_REGISTERS
        )

    def cycles(self, workload: Convolution, decision: Decision, target: Target) -> float:
        """Estimate the cycles of a layer."""
        gpu, types = gpu_of(target), workload.types
        rows, columns = workload.output
        panels = -(-workload.outputs // decision.tile_c)
        strips = workload.batch * rows * -(-columns // decision.tile_x)
        warps = strips * panels / gpu.lockstep
        rate = 1 / fma_per_cycle(types.data, gpu)
        if types.data != types.sums:
            rate += 1 / gpu.fma_per_cycle / decision.unroll_k
        multiply = decision.tile_x * decision.tile_c * gpu.lockstep * rate
        if any(workload.window.padding):
            multiply += decision.tile_x * gpu.lockstep / fma_per_cycle(types.data, gpu)
        # A warp reads adjacent weights, and a vector of inputs of several pixels.
        across, lanes = min(gpu.lockstep, panels), lanes_of(types.data)
        pixels = decision.tile_x * -(-gpu.lockstep // across)
        load = pixels / min(lanes, decision.unroll_k)
        line = max(1.0, MAX_LOAD_BYTES * across / gpu.load_bytes_per_cycle)
        load += decision.tile_c / lanes * line
        issue = overlapped(multiply, load)
        depth = workload.window.taps * _inputs(workload)
        busy = warps * issue * depth / gpu.units
        # Each iteration of a warp waits once for its loads, unless another warp has work.
        resident = resident_threads(gpu, self.registers(workload, decision, gpu)) / gpu.lockstep
        rounds = max(1.0, warps / gpu.units / max(1.0, resident))
        steps = depth / decision.unroll_k
        wait = rounds * steps * (gpu.load_latency + decision.unroll_k * issue)
        return overlapped(busy, wait)


def _element(
    workload: Convolution, data: te.Tensor, width: int, dtype: str, *place: Any
) -> te.Tensor:
    """Return the input at a tap of a pixel: the nearest one, by zero if it is on the border.

    A condition around each load would be a branch.
    """
    n, y, x, ry, rx, c = place
    window = workload.window
    (down, across), (below, beside) = window.stride, window.dilation
    top, left, bottom, _ = window.padding
    # From the first to the last column of the last strip.
    columns = (width - 1) * across + window.reach[1]
    rows = workload.height + top + bottom
    row, column = y * down + ry * below - top, x * across + rx * beside - left
    value = data[
        n,
        nearest(row, workload.height, top, rows),
        nearest(column, workload.width, left, columns),
        c,
    ].astype(dtype)
    if any(window.padding):
        value = value * (
            inside(row, workload.height, top, rows, dtype)
            * inside(column, workload.width, left, columns, dtype)
        )
    return value


def _schedule(
    sch: s_tir.Schedule, workload: Convolution, decision: Decision, count: int, lanes: int
) -> tirx.PrimFunc:
    """Schedule the stages; `lanes` are those of a vector of products."""
    total, result = sch.get_sblock("conv2d"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    x_strips, x_strip = sch.split(x, [None, decision.tile_x])
    c_panels, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    sch.reorder(n, y, x_strips, c_panels, x_strip, c_vector, c_lane)
    sch.compute_at(total, c_panels, preserve_unit_loops=True)
    threads = bind_threads(sch, [n, y, x_strips, c_panels], decision.group)
    sch.set_scope(total, 0, "local")

    *_, tx, _, tc, ry, rx, k = sch.get_loops(total)
    k_outer, k_inner = sch.split(k, [None, decision.unroll_k // _chunk(workload, decision)])
    vector, lane = sch.split(tc, [None, lanes])
    sch.reorder(ry, rx, k_outer, k_inner, tx, vector, lane)
    copy_in_vectors(sch, sch.get_sblock("rows"), k_outer, lanes)
    copy_in_vectors(sch, sch.cache_read(total, 1, "local"), k_inner, lanes)
    unroll(sch, [k_inner, tx, vector])
    sch.vectorize(lane)
    init = sch.decompose_reduction(total, ry)
    *_, tx, _, vector, lane = sch.get_loops(init)
    unroll(sch, [tx, vector])
    sch.vectorize(lane)
    store(sch, [x_strip, c_vector], c_lane, workload.outputs % lanes == 0)
    return guarded(sch, threads, count)


def _inputs(workload: Convolution) -> int:
    """Return the inputs of a group."""
    return workload.inputs // workload.groups


def _outputs(workload: Convolution) -> int:
    """Return the outputs of a group."""
    return workload.outputs // workload.groups


def _chunk(workload: Convolution, decision: Decision) -> int:
    """Return how many products are added in the data's type before they reach the sums."""
    return 1 if workload.types.data == workload.types.sums else decision.unroll_k


SCHEDULE = GpuConvolution()
