"""What all schedules of a depthwise and a pointwise layer in one kernel share, on GPUs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.gpu import depthwise
from mobilenet_tvm.schedules.gpu.threads import WORTH_IT, arithmetic, gpu_of, with_traffic
from mobilenet_tvm.schedules.workloads import DepthwisePointwise, Pointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Fused(ABC):
    """The schedule of its pointwise half, whose threads compute the pixels that they read.

    Each tile of outputs computes the depthwise half anew.

    Parameters
    ----------
    half : module
        The schedule of a pointwise layer.
    decision : type
        Of the fused one: the tile of its pointwise half.
    """

    def __init__(self, half: ModuleType, decision: type[Any]) -> None:
        self.half = half
        self.Decision = decision

    def pays(self, workload: DepthwisePointwise, target: Target) -> bool:
        """Tell whether fusing saves more memory traffic than it costs in work that is done again.

        What fusing saves is the tensor between, written and read, and the start of a kernel
        (source: Qararyah and others, 2024, arXiv 2404.19331, whose planner weighs traffic alike).

        Parameters
        ----------
        workload : DepthwisePointwise
            The layer.
        target : Target
            Its GPU.
        """
        if not self.decisions(workload, target):
            return False
        gpu, first, second = gpu_of(target), workload.depthwise, workload.pointwise
        half = self.alone(second, target)
        together = self.cycles(workload, self.default(workload, target), gpu)
        filter_ = depthwise.cycles(first, depthwise.default(first, target), gpu)
        multiply = half.cycles(second, half.default(second, target), gpu)
        apart = with_traffic(filter_, first.bytes, gpu)
        apart += with_traffic(multiply, second.bytes, gpu) + gpu.launch_cycles
        return with_traffic(together, workload.bytes, gpu) < WORTH_IT * apart

    def alone(self, second: Pointwise, target: Target) -> ModuleType:  # noqa: ARG002
        """Return the schedule that the pointwise half has where it is not fused."""
        return self.half

    def default(self, workload: DepthwisePointwise, target: Target) -> Any:
        """Choose the decision of the fewest cycles by a model of a unit.

        Parameters
        ----------
        workload : DepthwisePointwise
            The layer.
        target : Target
            Its GPU.

        Returns
        -------
        Decision
            Always valid for the workload.
        """
        gpu = gpu_of(target)
        candidates = self.decisions(workload, target)
        return min(candidates, key=lambda d: (self.cycles(workload, d, gpu), *vars(d).values()))

    def space(self, workload: DepthwisePointwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidates for each part of a decision."""
        candidates: dict[str, list[Any]] = self.half.space(workload.pointwise, target)
        return candidates

    def valid(self, workload: DepthwisePointwise, decision: Any, target: Target) -> bool:
        """Tell whether `build` takes a decision."""
        half = bool(self.half.valid(workload.pointwise, decision, target))
        return half and self.fits(workload, decision, gpu_of(target))

    def fits(self, workload: DepthwisePointwise, decision: Any, gpu: Gpu) -> bool:  # noqa: ARG002
        """Tell whether there is room for the depthwise half in a valid pointwise one."""
        return True

    def decisions(self, workload: DepthwisePointwise, target: Target) -> list[Any]:
        """Return the valid decisions of the space, each once."""
        found = self.half.decisions(workload.pointwise, target)
        gpu = gpu_of(target)
        return [self.Decision(**vars(d)) for d in found if self.fits(workload, d, gpu)]

    def pack(
        self, taps: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any], decision: Any
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Lay both halves' weights out as the schedule reads them.

        Parameters
        ----------
        taps : ndarray
            [kernel height, kernel width, channels].
        matrix : ndarray
            [channels, outputs].
        decision : Decision
            Gives the tile.
        """
        return np.ascontiguousarray(taps), self.half.pack(matrix, decision)

    def build(self, workload: DepthwisePointwise, decision: Any, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function.

        Parameters
        ----------
        workload : DepthwisePointwise
            The layer.
        decision : Decision
            How to compute it.
        target : Target
            Its GPU.

        Returns
        -------
        PrimFunc
            Takes data, depthwise weights and epilogue tensors, pointwise weights and epilogue
            tensors, and the output, in NHWC.
        """
        dtype = arithmetic(workload.dtype, gpu_of(target))
        pixels = self.half.padded_pixels(workload.pointwise, decision)
        data, first, element = depthwise.inlined(workload.depthwise, pixels, dtype)
        weight, operands, result = self.half.stages(workload.pointwise, decision, element)
        sch = s_tir.Schedule(te.create_prim_func([data, *first, weight, *operands, result]))
        for name in depthwise.STAGES:
            sch.compute_inline(sch.get_sblock(name))
        return self.scheduled(sch, workload, decision, target)

    @abstractmethod
    def scheduled(
        self, sch: s_tir.Schedule, workload: DepthwisePointwise, decision: Any, target: Target
    ) -> tirx.PrimFunc:
        """Schedule the pointwise half, into which the other one is inlined."""

    def registers(self, workload: DepthwisePointwise, decision: Any, gpu: Gpu) -> int:
        """Return what a thread holds, which is the pointwise half's."""
        return int(self.half.registers(workload.pointwise, decision, gpu))

    def cycles(self, workload: DepthwisePointwise, decision: Any, gpu: Gpu) -> float:
        """Estimate the cycles of a layer, as if memory were infinitely fast.

        Parameters
        ----------
        workload : DepthwisePointwise
            The layer.
        decision : Decision
            How it is computed.
        gpu : Gpu
            Its rates.
        """
        multiply = float(self.half.cycles(workload.pointwise, decision, gpu))
        return self.filtering(workload, decision, gpu) + multiply

    @abstractmethod
    def filtering(self, workload: DepthwisePointwise, decision: Any, gpu: Gpu) -> float:
        """Estimate the cycles of the depthwise half; parameters as of `cycles`."""
