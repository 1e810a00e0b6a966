"""Depthwise and pointwise in one kernel in float16, the pointwise half on tensor cores.

As `tensor_core_pointwise`, but the threads of a group compute the pixels that they stage.
"""

from __future__ import annotations

from tvm import s_tir, tirx

from mobilenet_tvm.schedules.gpu import tensor_core_pointwise
from mobilenet_tvm.schedules.gpu.fused import Fused
from mobilenet_tvm.schedules.gpu.shared_depthwise_pointwise import filtering
from mobilenet_tvm.schedules.gpu.tensor_core_pointwise import LANES
from mobilenet_tvm.schedules.gpu.tensor_core_pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.workloads import DepthwisePointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Decision(PointwiseDecision):
    """How to compute a fused layer: the tile of its pointwise half."""


class _OnTensorCores(Fused):
    def scheduled(
        self,
        sch: s_tir.Schedule,
        workload: DepthwisePointwise,
        decision: Decision,
        target: Target,  # noqa: ARG002
    ) -> tirx.PrimFunc:
        tensor_core_pointwise.schedule(sch, workload.pointwise, decision, LANES)
        return sch.mod["main"]

    def filtering(self, workload: DepthwisePointwise, decision: Decision, gpu: Gpu) -> float:
        return filtering(workload, decision.high, decision.wide, gpu)


SCHEDULE = _OnTensorCores(tensor_core_pointwise, Decision)
