"""Depthwise and pointwise in one kernel on a GPU: a thread computes the pixels that it multiplies.

Like `pointwise`, but the tensor between the halves never leaves the registers. Each tile of outputs
recomputes the depthwise half, so this schedule suits layers with few outputs.
"""

from __future__ import annotations

from tvm import s_tir, tirx

from mobilenet_tvm.schedules.gpu import depthwise, pointwise
from mobilenet_tvm.schedules.gpu.fused import Fused
from mobilenet_tvm.schedules.gpu.pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.gpu.threads import (
    arithmetic,
    fma_per_cycle,
    guarded,
    lanes_of,
    overlapped,
    words,
)
from mobilenet_tvm.schedules.workloads import DepthwisePointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Decision(PointwiseDecision):
    """How to compute a fused layer: the tile of its pointwise half."""


class FusedPerThread(Fused[PointwiseDecision]):
    """Each thread computes the depthwise half of the pixels that it multiplies."""

    decision_type = Decision
    half = pointwise.SCHEDULE

    def fits(self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu) -> bool:
        """Return whether a thread has enough registers for the depthwise half."""
        return (
            decision.unroll_k <= lanes_of(workload.types.data)
            and self.registers(workload, decision, gpu) <= gpu.registers
        )

    def scheduled(
        self,
        sch: s_tir.Schedule,
        workload: DepthwisePointwise,
        decision: PointwiseDecision,
        target: Target,  # noqa: ARG002
    ) -> tirx.PrimFunc:
        """Schedule the pointwise half with the depthwise half inlined into it."""
        threads = pointwise.schedule(sch, workload.pointwise, decision)
        return guarded(sch, threads, pointwise.thread_count(workload.pointwise, decision))

    def registers(self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu) -> int:
        """Return a thread's registers: those of the pointwise half, a row of inputs and a tap."""
        vectors = _strip_columns(workload, decision) + 1
        row = words(arithmetic(workload.types.data, gpu), vectors * lanes_of(workload.types.data))
        return super().registers(workload, decision, gpu) + row

    def filtering(
        self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu
    ) -> float:
        """Estimate the depthwise half: each thread reads its pixels from separate cache lines."""
        second, kernel = workload.pointwise, workload.depthwise.window.kernel
        warps = pointwise.thread_count(second, decision) / gpu.lockstep
        lanes = lanes_of(workload.types.data)
        operations = lanes * kernel[0] * kernel[1] * decision.tile_m
        load = kernel[0] * (_strip_columns(workload, decision) * gpu.lockstep + kernel[1])
        multiply = operations * gpu.lockstep / fma_per_cycle(workload.types.data, gpu)
        return warps * second.inputs / lanes * overlapped(multiply, load) / gpu.units


def _strip_columns(workload: DepthwisePointwise, decision: PointwiseDecision) -> int:
    strip = depthwise.Decision(decision.tile_m, decision.group)
    return depthwise.strip_inputs(workload.depthwise, strip)


SCHEDULE = FusedPerThread()
