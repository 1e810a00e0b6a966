"""Global average pooling on a GPU: a thread sums a vector of channels over the pixels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.gpu.base import GpuSchedule
from mobilenet_tvm.schedules.gpu.threads import (
    ADDRESS_REGISTERS,
    GROUP_SIZES,
    arithmetic,
    bind_threads,
    gpu_of,
    guarded,
    lanes_of,
    overlapped,
    unroll,
    words,
)
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import GlobalPool, size_of
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target

#: Loads that a thread has in flight at once.
MAX_UNROLLED = 8


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a pooling layer.

    Parameters
    ----------
    unroll : int
        Pixels per iteration; divides the pixels.
    group : int
        Threads of a work-group.
    """

    unroll: int
    group: int


class GpuPooling(GpuSchedule[GlobalPool, Decision]):
    """Each thread sums a vector of channels."""

    workload_type = GlobalPool
    decision_type = Decision

    def default(self, workload: GlobalPool, target: Target) -> Decision:
        """Choose the largest number of loads in flight."""
        return Decision(max(self.space(workload, target)["unroll"]), GROUP_SIZES[0])

    def space(self, workload: GlobalPool, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        return {
            "unroll": divisors(workload.pixels, MAX_UNROLLED),
            "group": [group for group in GROUP_SIZES if group <= gpu_of(target).group_threads],
        }

    def valid(self, workload: GlobalPool, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        parts = self.space(workload, target)
        return decision.unroll in parts["unroll"] and decision.group in parts["group"]

    def decisions(self, workload: GlobalPool, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        return list(
            itertools.starmap(Decision, itertools.product(*self.space(workload, target).values()))
        )

    def build(self, workload: GlobalPool, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function."""
        image = (workload.batch, workload.pixels, workload.channels)
        data = te.placeholder(image, workload.types.data, name="data")
        sums = workload.types.sums
        pixel = te.reduce_axis((0, workload.pixels), name="pixel")
        shape = (workload.batch, workload.channels)
        # In float32: the sum over all pixels could overflow float16.
        total = te.compute(
            shape, lambda n, c: te.sum(data[n, pixel, c].astype(sums), axis=pixel), name="sum"
        )
        scale = tirx.const(1.0 / workload.pixels, sums)
        operands, result = epilogue_stage(workload, shape, lambda *i: total[i] * scale)
        sch = s_tir.Schedule(te.create_prim_func([data, *operands, result]))
        lanes = math.gcd(workload.channels, _lanes(workload, gpu_of(target)))
        return _schedule(sch, decision, lanes, workload.batch * workload.channels // lanes)

    def stages(self, workload: GlobalPool, target: Target) -> list[GlobalPool]:
        """Return one or two pooling layers: means of parts of the pixels, then the mean of those.

        In a single layer, one thread per vector of channels would leave most of a GPU idle, waiting
        for loads.
        """
        gpu, pixels = gpu_of(target), workload.pixels
        parts = min(divisors(pixels, pixels), key=lambda count: abs(count - pixels**0.5))
        saved = (pixels - parts - pixels // parts) / MAX_UNROLLED * gpu.load_latency
        threads = workload.batch * workload.channels / _lanes(workload, gpu)
        if parts in (1, pixels) or saved < gpu.launch_cycles or threads > gpu.units * gpu.threads:
            return [workload]
        types = replace(workload.types, result=workload.types.data)
        image = (workload.batch * parts, pixels // parts, workload.channels)
        return [GlobalPool(*image, types=types), replace(workload, pixels=parts)]

    def registers(self, workload: GlobalPool, decision: Decision, gpu: Gpu) -> int:
        """Return a thread's registers: a sum, the vectors in flight, addresses."""
        lanes = _lanes(workload, gpu)
        loaded = words(workload.types.data, lanes * decision.unroll)
        return words(workload.types.sums, lanes) + loaded + ADDRESS_REGISTERS

    def cycles(self, workload: GlobalPool, decision: Decision, target: Target) -> float:
        """Estimate the cycles of a layer."""
        gpu = gpu_of(target)
        lanes = _lanes(workload, gpu)
        warps = workload.batch * workload.channels / lanes / gpu.lockstep
        lines = size_of(workload.types.data) * lanes * gpu.lockstep / gpu.load_bytes_per_cycle
        wait = workload.pixels / decision.unroll * gpu.load_latency
        return overlapped(warps * workload.pixels * lines / gpu.units, wait)


def _schedule(sch: s_tir.Schedule, decision: Decision, lanes: int, count: int) -> tirx.PrimFunc:
    total, result = sch.get_sblock("sum"), sch.get_sblock("epilogue")
    n, c = sch.get_loops(result)
    vectors, lane = sch.split(c, [None, lanes])
    sch.compute_at(total, vectors, preserve_unit_loops=True)
    threads = bind_threads(sch, [n, vectors], decision.group)
    sch.set_scope(total, 0, "local")
    *_, tc, pixel = sch.get_loops(total)
    outer, inner = sch.split(pixel, [None, decision.unroll])
    sch.reorder(outer, inner, tc)
    unroll(sch, [inner])
    sch.vectorize(tc)
    init = sch.decompose_reduction(total, outer)
    sch.vectorize(sch.get_loops(init)[-1])
    sch.vectorize(lane)
    return guarded(sch, threads, count)


def _lanes(workload: GlobalPool, gpu: Gpu) -> int:
    return lanes_of(arithmetic(workload.types.data, gpu))


SCHEDULE = GpuPooling()
