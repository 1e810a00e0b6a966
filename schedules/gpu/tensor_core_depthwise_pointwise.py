"""Depthwise and pointwise in one float16 kernel, with the pointwise half on tensor cores.

Like `tensor_core_pointwise`, but the threads of a group compute the pixels that they stage.
"""

from __future__ import annotations

from tvm import s_tir, tirx

from mobilenet_tvm.schedules.base import default_decision
from mobilenet_tvm.schedules.gpu import shared_depthwise_pointwise, tensor_core_pointwise
from mobilenet_tvm.schedules.gpu.fused import Fused
from mobilenet_tvm.schedules.gpu.shared_depthwise_pointwise import filtering
from mobilenet_tvm.schedules.gpu.tensor_core_pointwise import LANES
from mobilenet_tvm.schedules.gpu.tensor_core_pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.workloads import DepthwisePointwise, Workload
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Decision(PointwiseDecision):
    """How to compute a fused layer: the tile of its pointwise half."""


class FusedOnTensorCores(Fused[PointwiseDecision]):
    """The threads of a group compute the depthwise half of the pixels that its warps multiply."""

    decision_type = Decision
    half = tensor_core_pointwise.SCHEDULE

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether tensor cores take the pointwise half and make the layer faster."""
        if not (super().takes(workload, target) and isinstance(workload, DepthwisePointwise)):
            return False
        if not self.half.takes(workload.pointwise, target):
            return False
        shared = shared_depthwise_pointwise.SCHEDULE
        cycles = self.cycles(workload, default_decision(self, workload, target), target)
        return cycles < shared.cycles(workload, default_decision(shared, workload, target), target)

    def scheduled(
        self,
        sch: s_tir.Schedule,
        workload: DepthwisePointwise,
        decision: PointwiseDecision,
        target: Target,  # noqa: ARG002
    ) -> tirx.PrimFunc:
        """Schedule the pointwise half with the depthwise half inlined into it."""
        tensor_core_pointwise.schedule(sch, workload.pointwise, decision, LANES)
        return sch.mod["main"]

    def filtering(
        self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu
    ) -> float:
        """Estimate the cycles of the depthwise half."""
        return filtering(workload, decision.high, decision.wide, gpu)


SCHEDULE = FusedOnTensorCores()
