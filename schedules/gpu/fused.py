"""What all schedules of a depthwise and a pointwise layer in one kernel share, on GPUs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Array, D, default_decision
from mobilenet_tvm.schedules.gpu import depthwise
from mobilenet_tvm.schedules.gpu.base import GpuPointwise, GpuSchedule
from mobilenet_tvm.schedules.gpu.threads import WORTH_IT, arithmetic, gpu_of, with_traffic
from mobilenet_tvm.schedules.workloads import DepthwisePointwise, Pointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Fused(GpuSchedule[DepthwisePointwise, D]):
    """The schedule of its pointwise half, whose threads compute the pixels that they read.

    Each tile of outputs computes the depthwise half anew. A decision is the tile of the pointwise
    half.

    Attributes
    ----------
    half : GpuPointwise
        The schedule of the pointwise half.
    """

    workload_type = DepthwisePointwise
    half: GpuPointwise[D]

    def pays(self, workload: DepthwisePointwise, target: Target) -> bool:
        """Tell whether fusing saves more memory traffic than it costs in work that is done again.

        What fusing saves is the tensor between, written and read, and the start of a kernel
        (source: Qararyah and others, 2024, arXiv 2404.19331, whose planner weighs traffic alike).
        """
        if not self.decisions(workload, target):
            return False
        gpu, first, second = gpu_of(target), workload.depthwise, workload.pointwise
        half = self.alone(second, target)
        together = self.cycles(workload, default_decision(self, workload, target), target)
        decision = default_decision(depthwise.SCHEDULE, first, target)
        filter_ = depthwise.SCHEDULE.cycles(first, decision, target)
        multiply = half.cycles(second, default_decision(half, second, target), target)
        apart = with_traffic(filter_, first.bytes, gpu)
        apart += with_traffic(multiply, second.bytes, gpu) + gpu.launch_cycles
        return with_traffic(together, workload.bytes, gpu) < WORTH_IT * apart

    def alone(self, second: Pointwise, target: Target) -> GpuPointwise[Any]:  # noqa: ARG002
        """Return the schedule that the pointwise half has where it is not fused."""
        return self.half

    def default(self, workload: DepthwisePointwise, target: Target) -> D:
        """Choose the decision of the fewest cycles by a model of a unit."""
        candidates = self.decisions(workload, target)
        return min(candidates, key=lambda d: (self.cycles(workload, d, target), *vars(d).values()))

    def space(self, workload: DepthwisePointwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidates for each part of a decision."""
        return self.half.space(workload.pointwise, target)

    def valid(self, workload: DepthwisePointwise, decision: D, target: Target) -> bool:
        """Tell whether `build` takes a decision."""
        half = self.half.valid(workload.pointwise, decision, target)
        return half and self.fits(workload, decision, gpu_of(target))

    def fits(self, workload: DepthwisePointwise, decision: D, gpu: Gpu) -> bool:  # noqa: ARG002
        """Tell whether there is room for the depthwise half in a valid pointwise one."""
        return True

    def decisions(self, workload: DepthwisePointwise, target: Target) -> list[D]:
        """Return the valid decisions of the space, each once."""
        found = self.half.decisions(workload.pointwise, target)
        gpu = gpu_of(target)
        return [self.decision_type(**vars(d)) for d in found if self.fits(workload, d, gpu)]

    def pack(self, weights: Sequence[Array], decision: D) -> list[Array]:
        """Return taps as they are, and the matrix as the pointwise half reads it."""
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
        """Schedule the pointwise half, into which the other one is inlined."""

    def registers(self, workload: DepthwisePointwise, decision: D, gpu: Gpu) -> int:
        """Return what a thread holds, which is the pointwise half's."""
        return self.half.registers(workload.pointwise, decision, gpu)

    def cycles(self, workload: DepthwisePointwise, decision: D, target: Target) -> float:
        """Estimate the cycles of a layer, as if memory were infinitely fast."""
        multiply = self.half.cycles(workload.pointwise, decision, target)
        return self.filtering(workload, decision, gpu_of(target)) + multiply

    @abstractmethod
    def filtering(self, workload: DepthwisePointwise, decision: D, gpu: Gpu) -> float:
        """Estimate the cycles of the depthwise half."""
