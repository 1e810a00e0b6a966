"""The stem on a GPU: a register tile of pixels x outputs per thread, the image in NCHW or NHWC.

Neighbouring threads compute neighbouring outputs of the same pixels.
"""

from __future__ import annotations

import itertools
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
    arithmetic,
    bind_threads,
    clamped,
    copy_in_vectors,
    gpu_of,
    guarded,
    inside,
    lanes_of,
    overlapped,
    store,
    unroll,
)
from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import Convolution, Workload
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a stem.

    Parameters
    ----------
    tile_x : int
        Output columns of a thread.
    tile_c : int
        Output channels of a thread: full vectors.
    group : int
        Threads of a work-group.
    """

    tile_x: int
    tile_c: int
    group: int


class GpuStem(GpuSchedule[Convolution, Decision]):
    """A register tile of pixels x outputs per thread."""

    workload_type = Convolution
    decision_type = Decision

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        stem = isinstance(workload, Convolution) and workload.is_stem
        return stem and super().takes(workload, target)

    def default(self, workload: Convolution, target: Target) -> Decision:
        """Choose the register tile with the fewest cycles according to the GPU model."""
        candidates = [d for d in self.decisions(workload, target) if d.group == GROUP_SIZES[0]]
        return min(candidates, key=lambda decision: self.cycles(workload, decision, target))

    def space(self, workload: Convolution, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        gpu, lanes = gpu_of(target), lanes_of(workload.types.weights)
        vectors = -(-workload.outputs // lanes)
        tiles = itertools.product(
            range(1, min(workload.output[1], 8) + 1),
            [lanes * count for count in (1, 2, 4) if vectors % count == 0],
        )
        return {
            "tile": [
                tile
                for tile in tiles
                if tile == (1, lanes)
                or self.registers(workload, Decision(*tile, 0), gpu) <= gpu.registers
            ],
            "group": [group for group in GROUP_SIZES if group <= gpu.group_threads],
        }

    def valid(self, workload: Convolution, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        parts = self.space(workload, target)
        tile = (decision.tile_x, decision.tile_c)
        return tile in parts["tile"] and decision.group in parts["group"]

    def decisions(self, workload: Convolution, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        parts = self.space(workload, target)
        return [
            Decision(tile_x, tile_c, group)
            for (tile_x, tile_c), group in itertools.product(parts["tile"], parts["group"])
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights with the outputs split: a thread's vectors outermost, lanes innermost.

        [tile_c / lanes, kernel height, kernel width, inputs, outputs / tile_c, lanes]: neighbouring
        threads read neighbouring vectors. The last ones are zero-padded.
        """
        (weight,) = weights
        *window, outputs = weight.shape
        lanes = lanes_of(str(weight.dtype))
        vectors = decision.tile_c // lanes
        full = np.pad(weight, [(0, 0)] * len(window) + [(0, -outputs % decision.tile_c)])
        parts = full.reshape(*window, -1, vectors, lanes)
        return [np.ascontiguousarray(np.moveaxis(parts, -2, 0))]

    def build(self, workload: Convolution, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function."""
        tile_x, tile_c = decision.tile_x, decision.tile_c
        lanes = lanes_of(workload.types.weights)
        # In float32: the values of an image may be close together and far from zero. In float16 the
        # error of a small V1 with TensorFlow's padding rose from 1 to 3 %.
        sums = workload.types.sums
        rows, columns = workload.output
        strips, panels = -(-columns // tile_x), -(-workload.outputs // tile_c)
        image, nchw = (workload.height, workload.width), workload.reads_nchw
        shape = (
            (workload.batch, workload.inputs, *image)
            if nchw
            else (workload.batch, *image, workload.inputs)
        )
        data = te.placeholder(shape, workload.types.data, name="data")
        window = (*workload.window.kernel, workload.inputs)
        weight = te.placeholder(
            (tile_c // lanes, *window, panels, lanes), workload.types.weights, name="weight"
        )
        stride_y, stride_x = workload.window.stride
        top, left, bottom, right = workload.window.padding
        # The last strip is full; what it computes beyond the image is not stored.
        beyond = (strips * tile_x - columns) * stride_x
        source = clamped(data, (top, left, bottom, right + beyond), sums, nchw)
        padded = workload.height + top + bottom
        # A tap on the top or bottom border is zero.
        masked = te.compute(
            (rows, *weight.shape),
            lambda y, v, ry, rx, rc, p, lane: (
                weight[v, ry, rx, rc, p, lane].astype(sums)
                * inside(y * stride_y + ry - top, workload.height, top, padded, sums)
            ),
            name="taps",
        )
        ry, rx, rc = (
            te.reduce_axis((0, size), name=name)
            for size, name in zip(window, ("ry", "rx", "rc"), strict=True)
        )

        def product(n: Any, y: Any, x: Any, c: Any) -> Any:
            row, column = y * stride_y + ry, x * stride_x + rx
            pixel = source[n, rc, row, column] if nchw else source[n, row, column, rc]
            taps = masked[y, c % tile_c // lanes, ry, rx, rc, c // tile_c, c % lanes]
            return te.sum(pixel * taps, axis=[ry, rx, rc])

        total = te.compute(
            (workload.batch, rows, strips * tile_x, panels * tile_c), product, name="conv2d"
        )
        output = (workload.batch, rows, columns, workload.outputs)
        operands, result = epilogue_stage(workload, output, lambda *i: total[i])
        sch = s_tir.Schedule(te.create_prim_func([data, weight, *operands, result]))
        count = workload.batch * rows * strips * panels
        lanes = lanes_of(arithmetic(workload.types.weights, gpu_of(target)))
        return _schedule(sch, decision, count, lanes, workload.outputs % lanes == 0)

    def registers(self, workload: Convolution, decision: Decision, gpu: Gpu) -> int:  # noqa: ARG002
        """Return a thread's registers: sums, a row of one input, a tap's weights, addresses."""
        row = (decision.tile_x - 1) * workload.window.stride[1] + workload.window.kernel[1]
        return decision.tile_x * decision.tile_c + row + decision.tile_c + ADDRESS_REGISTERS

    def cycles(self, workload: Convolution, decision: Decision, target: Target) -> float:
        """Estimate the cycles of a layer."""
        gpu = gpu_of(target)
        rows, columns = workload.output
        panels = -(-workload.outputs // decision.tile_c)
        strips = workload.batch * rows * -(-columns // decision.tile_x)
        warps = strips * panels / gpu.lockstep
        row = (decision.tile_x - 1) * workload.window.stride[1] + workload.window.kernel[1]
        taps = workload.window.kernel[1] * decision.tile_x * decision.tile_c
        multiply = taps * gpu.lockstep / gpu.fma_per_cycle
        # The threads of a warp cover the outputs of a strip, then further strips.
        across = min(gpu.lockstep, panels)
        load = row * -(-gpu.lockstep // across) / lanes_of(workload.types.data)
        load += workload.window.kernel[1] * decision.tile_c / lanes_of(workload.types.weights)
        passes = workload.window.kernel[0] * workload.inputs
        return warps * passes * overlapped(multiply, load) / gpu.units


def _schedule(
    sch: s_tir.Schedule, decision: Decision, count: int, lanes: int, whole: bool
) -> tirx.PrimFunc:
    total, result = sch.get_sblock("conv2d"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    x_strips, x_strip = sch.split(x, [None, decision.tile_x])
    c_panels, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    sch.reorder(n, y, x_strips, c_panels, x_strip, c_vector, c_lane)
    sch.compute_at(total, c_panels, preserve_unit_loops=True)
    threads = bind_threads(sch, [n, y, x_strips, c_panels], decision.group)
    sch.set_scope(total, 0, "local")

    *_, tx, tc, ry, rx, rc = sch.get_loops(total)
    vector, lane = sch.split(tc, [None, lanes])
    sch.reorder(ry, rc, rx, tx, vector, lane)
    pad = sch.get_sblock("pad")
    sch.compute_at(pad, rc, preserve_unit_loops=True)
    sch.set_scope(pad, 0, "local")
    unroll(sch, sch.get_loops(pad)[-len(sch.get(pad).iter_vars) :])
    copy_in_vectors(sch, sch.get_sblock("taps"), rx, lanes)
    unroll(sch, [rx, tx, vector])
    sch.vectorize(lane)
    init = sch.decompose_reduction(total, ry)
    *_, tx, vector, lane = sch.get_loops(init)
    unroll(sch, [tx, vector])
    sch.vectorize(lane)
    store(sch, [x_strip, c_vector], c_lane, whole)
    return guarded(sch, threads, count)


SCHEDULE = GpuStem()
