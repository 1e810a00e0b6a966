"""Depthwise and pointwise in one kernel for NVIDIA GPUs: what is between stays in shared memory.

As `shared_pointwise`, but the threads of a group compute the pixels that they stage.
"""

from __future__ import annotations

from types import ModuleType

from tvm import s_tir, tirx

from mobilenet_tvm.schedules.gpu import shared_pointwise, tensor_core_pointwise
from mobilenet_tvm.schedules.gpu.fused import Fused
from mobilenet_tvm.schedules.gpu.shared_pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.gpu.threads import arithmetic, gpu_of, lanes_of, words
from mobilenet_tvm.schedules.workloads import DepthwisePointwise, Pointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Decision(PointwiseDecision):
    """How to compute a fused layer: the tile of its pointwise half."""


class _Shared(Fused):
    def alone(self, second: Pointwise, target: Target) -> ModuleType:
        """Return the schedule that the pointwise half has where it is not fused."""
        cores = tensor_core_pointwise.pays(second, target)
        return tensor_core_pointwise if cores else shared_pointwise

    def scheduled(
        self, sch: s_tir.Schedule, workload: DepthwisePointwise, decision: Decision, target: Target
    ) -> tirx.PrimFunc:
        lanes = lanes_of(arithmetic(workload.dtype, gpu_of(target)))
        shared_pointwise.schedule(sch, workload.pointwise, decision, lanes)
        return sch.mod["main"]

    def filtering(self, workload: DepthwisePointwise, decision: Decision, gpu: Gpu) -> float:
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
        A unit loads an input and a tap for each multiply-add.
    """
    kernel, second = workload.depthwise.kernel, workload.pointwise
    groups = -(-second.pixels // high) * -(-second.outputs // wide)
    products = high * second.inputs * kernel[0] * kernel[1]
    loaded = 2 * 4 * words(workload.dtype, products)
    return -(-groups // gpu.units) * loaded / gpu.load_bytes_per_cycle


SCHEDULE = _Shared(shared_pointwise, Decision)
