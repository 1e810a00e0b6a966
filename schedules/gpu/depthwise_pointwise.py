"""Depthwise and pointwise in one kernel on a GPU: a thread computes the pixels that it multiplies.

As `pointwise`, where what is between never leaves the registers. Each tile of outputs computes the
depthwise half anew, so it is for layers of few outputs.
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
    """A thread filters the pixels that it multiplies."""

    decision_type = Decision
    half = pointwise.SCHEDULE

    def fits(self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu) -> bool:
        """Tell whether a thread has registers left for the depthwise half."""
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
        """Schedule the pointwise half, into which the other one is inlined."""
        threads = pointwise.schedule(sch, workload.pointwise, decision)
        return guarded(sch, threads, pointwise.thread_count(workload.pointwise, decision))

    def registers(self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu) -> int:
        """Return what a thread holds: the pointwise half's, and a row of inputs and a tap."""
        vectors = _row(workload, decision) + 1
        row = words(arithmetic(workload.types.data, gpu), vectors * lanes_of(workload.types.data))
        return super().registers(workload, decision, gpu) + row

    def filtering(
        self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu
    ) -> float:
        """Estimate the depthwise half: threads read pixels that lie in cache lines of their own."""
        second, kernel = workload.pointwise, workload.depthwise.window.kernel
        warps = pointwise.thread_count(second, decision) / gpu.lockstep
        lanes = lanes_of(workload.types.data)
        operations = lanes * kernel[0] * kernel[1] * decision.tile_m
        load = kernel[0] * (_row(workload, decision) * gpu.lockstep + kernel[1])
        multiply = operations * gpu.lockstep / fma_per_cycle(workload.types.data, gpu)
        return warps * second.inputs / lanes * overlapped(multiply, load) / gpu.units


def _row(workload: DepthwisePointwise, decision: PointwiseDecision) -> int:
    strip = depthwise.Decision(decision.tile_m, decision.group)
    return depthwise.strip_inputs(workload.depthwise, strip)


SCHEDULE = FusedPerThread()
