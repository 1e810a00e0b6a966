"""Depthwise and pointwise in one kernel for NVIDIA GPUs; the tensor between is in shared memory.

Like `shared_pointwise`, but the threads of a group compute the pixels that they stage.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from mobilenet_tvm.schedules.gpu import shared_pointwise, tensor_core_pointwise
from mobilenet_tvm.schedules.gpu.base import GpuPointwise
from mobilenet_tvm.schedules.gpu.fused import Fused
from mobilenet_tvm.schedules.gpu.shared_pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.gpu.threads import WORD_BYTES, arithmetic, gpu_of, lanes_of, words
from mobilenet_tvm.schedules.workloads import DepthwisePointwise, Pointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Decision(PointwiseDecision):
    """How to compute a fused layer: the tile of its pointwise half."""


class FusedShared(Fused[PointwiseDecision]):
    """The threads of a group compute the depthwise half of the pixels that they stage."""

    decision_type = Decision
    half = shared_pointwise.SCHEDULE

    def unfused_half(self, second: Pointwise, target: Target) -> GpuPointwise[Any]:
        """Return the schedule of the pointwise half when it is not fused."""
        on_tensor_cores = tensor_core_pointwise.SCHEDULE
        return on_tensor_cores if on_tensor_cores.takes(second, target) else self.half

    def scheduled(
        self,
        sch: s_tir.Schedule,
        workload: DepthwisePointwise,
        decision: PointwiseDecision,
        target: Target,
    ) -> tirx.PrimFunc:
        """Schedule the pointwise half with the depthwise half inlined into it."""
        lanes = lanes_of(arithmetic(workload.types.data, gpu_of(target)))
        shared_pointwise.schedule(sch, workload.pointwise, decision, lanes)
        return sch.mod["main"]

    def filtering(
        self, workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu
    ) -> float:
        """Estimate the cycles of the depthwise half."""
        high, wide = decision.tile_m * decision.threads_m, decision.tile_n * decision.threads_n
        return filtering(workload, high, wide, gpu)


def filtering(workload: DepthwisePointwise, high: int, wide: int, gpu: Gpu) -> float:
    """Estimate the cycles of the depthwise half.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    high, wide : int
        Pixels and outputs of a work-group.
    gpu : Gpu
        The GPU, of which a unit loads an input and a tap for each multiply-add.
    """
    kernel, second = workload.depthwise.window.kernel, workload.pointwise
    groups = -(-second.pixels // high) * -(-second.outputs // wide)
    products = high * second.inputs * kernel[0] * kernel[1]
    loaded = 2 * WORD_BYTES * words(workload.types.data, products)
    return -(-groups // gpu.units) * loaded / gpu.load_bytes_per_cycle


SCHEDULE = FusedShared()
