"""Base class of the GPU schedules that fuse a depthwise and a pointwise layer in one kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Array, D, default_decision
from mobilenet_tvm.schedules.gpu import depthwise
from mobilenet_tvm.schedules.gpu.base import GpuPointwise, GpuSchedule
from mobilenet_tvm.schedules.gpu.threads import MIN_GAIN, arithmetic, gpu_of, with_traffic
from mobilenet_tvm.schedules.workloads import DepthwisePointwise, Pointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Fused(GpuSchedule[DepthwisePointwise, D]):
    """The schedule of the pointwise half, whose threads compute the pixels that they read.

    Each tile of outputs recomputes the depthwise half. A decision is that of the pointwise half.

    Attributes
    ----------
    half : GpuPointwise
        The schedule of the pointwise half.
    """

    workload_type = DepthwisePointwise
    half: GpuPointwise[D]

    def pays(self, workload: DepthwisePointwise, target: Target) -> bool:
        """Return whether the memory traffic saved by fusing outweighs the recomputation.

        Fusing saves writing and reading the tensor between the halves, and a kernel launch (source:
        Qararyah and others, 2024, arXiv 2404.19331, whose planner weighs traffic in the same way).
        """
        if not self.decisions(workload, target):
            return False
        gpu, first, second = gpu_of(target), workload.depthwise, workload.pointwise
        unfused = self.unfused_half(second, target)
        fused = self.cycles(workload, default_decision(self, workload, target), target)
        decision = default_decision(depthwise.SCHEDULE, first, target)
        depthwise_cycles = depthwise.SCHEDULE.cycles(first, decision, target)
        pointwise_cycles = unfused.cycles(second, default_decision(unfused, second, target), target)
        separate = with_traffic(depthwise_cycles, first.bytes, gpu)
        separate += with_traffic(pointwise_cycles, second.bytes, gpu) + gpu.launch_cycles
        return with_traffic(fused, workload.bytes, gpu) < (1 - MIN_GAIN) * separate

    def unfused_half(self, second: Pointwise, target: Target) -> GpuPointwise[Any]:  # noqa: ARG002
        """Return the schedule of the pointwise half when it is not fused."""
        return self.half

    def space(self, workload: DepthwisePointwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        return self.half.space(workload.pointwise, target)

    def valid(self, workload: DepthwisePointwise, decision: D, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        half = self.half.valid(workload.pointwise, decision, target)
        return half and self.fits(workload, decision, gpu_of(target))

    def fits(self, workload: DepthwisePointwise, decision: D, gpu: Gpu) -> bool:  # noqa: ARG002
        """Return whether the depthwise half fits beside a valid decision of the pointwise one."""
        return True

    def decisions(self, workload: DepthwisePointwise, target: Target) -> list[D]:
        """Return the valid decisions in the space, without duplicates."""
        found = self.half.decisions(workload.pointwise, target)
        gpu = gpu_of(target)
        return [self.decision_type(**vars(d)) for d in found if self.fits(workload, d, gpu)]

    def pack(self, weights: Sequence[Array], decision: D) -> list[Array]:
        """Return the taps unchanged, and the matrix packed for the pointwise half."""
        taps, matrix = weights
        return [np.ascontiguousarray(taps), *self.half.pack([matrix], decision)]

    def build(self, workload: DepthwisePointwise, decision: D, target: Target) -> tirx.PrimFunc:
        """Return a function of data and an output in NHWC."""
        dtype = arithmetic(workload.types.data, gpu_of(target))
        pixels = self.half.padded_pixels(workload.pointwise, decision)
        data, first, element = depthwise.inlined(workload.depthwise, pixels, dtype)
        weight, operands, result = self.half.product(workload.pointwise, decision, element)
        sch = s_tir.Schedule(te.create_prim_func([data, *first, weight, *operands, result]))
        for name in depthwise.STAGES:
            sch.compute_inline(sch.get_sblock(name))
        return self.scheduled(sch, workload, decision, target)

    @abstractmethod
    def scheduled(
        self, sch: s_tir.Schedule, workload: DepthwisePointwise, decision: D, target: Target
    ) -> tirx.PrimFunc:
        """Schedule the pointwise half with the depthwise half inlined into it."""

    def registers(self, workload: DepthwisePointwise, decision: D, gpu: Gpu) -> int:
        """Return a thread's registers: by default, those of the pointwise half."""
        return self.half.registers(workload.pointwise, decision, gpu)

    def cycles(self, workload: DepthwisePointwise, decision: D, target: Target) -> float:
        """Estimate the cycles of a layer, without memory traffic."""
        multiply = self.half.cycles(workload.pointwise, decision, target)
        return self.filtering(workload, decision, gpu_of(target)) + multiply

    @abstractmethod
    def filtering(self, workload: DepthwisePointwise, decision: D, gpu: Gpu) -> float:
        """Estimate the cycles of the depthwise half."""
