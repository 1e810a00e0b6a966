"""Base classes of the schedules for GPUs, which model a thread's registers and a layer's cycles."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from tvm import te

from mobilenet_tvm.schedules.base import D, Schedule, W, default_decision
from mobilenet_tvm.schedules.gpu import gates
from mobilenet_tvm.schedules.gpu.threads import gpu_of
from mobilenet_tvm.schedules.workloads import Pointwise, Workload
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target

#: Types of the values in networks on GPUs.
DTYPES = ("float32", "float16")


class GpuSchedule(Schedule[W, D]):
    """A GPU schedule for float32 and float16 layers."""

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        return workload.dtype in DTYPES and super().takes(workload, target)

    def default(self, workload: W, target: Target) -> D:
        """Choose the decision with the fewest cycles according to the GPU model."""
        candidates = self.decisions(workload, target)
        return min(candidates, key=lambda d: (self.cycles(workload, d, target), *vars(d).values()))

    @abstractmethod
    def registers(self, workload: W, decision: D, gpu: Gpu) -> int:
        """Return how many 32-bit registers a thread uses."""

    def features(self, workload: W, decision: D, target: Target) -> dict[str, float]:
        """Describe a decision by the model's registers and cycles."""
        gpu = gpu_of(target)
        cycles = self.cycles(workload, decision, target)
        registers = self.registers(workload, decision, gpu)
        return {
            "registers_of_thread": registers,
            "units": gpu.units,
            "lockstep": gpu.lockstep,
            "registers_share": registers / gpu.registers,
            "log_cycles": math.log(cycles),
            "cycles_per_flop": cycles / workload.flops,
        }


class GpuPointwise(GpuSchedule[Pointwise, D]):
    """A schedule of pointwise layers, on which fused schedules are built."""

    workload_type = Pointwise

    def pays(self, workload: Pointwise, target: Target) -> bool:
        """Return whether applying the gates in this layer is faster than in a separate kernel."""

        def cycles(layer: Pointwise) -> float:
            return self.cycles(layer, default_decision(self, layer, target), target)

        return gates.pays(workload, cycles, target)

    @abstractmethod
    def padded_pixels(self, workload: Pointwise, decision: D) -> int:
        """Return the pixels of all tiles, including those of the last tile beyond the image."""

    @abstractmethod
    def product(
        self, workload: Pointwise, decision: D, element: Callable[[Any, Any], Any]
    ) -> tuple[te.Tensor, list[te.Tensor], te.Tensor]:
        """Return the packed weights, the epilogue's operands, and the result.

        Parameters
        ----------
        workload : Pointwise
            The layer.
        decision : Decision
            How it is computed.
        element : callable
            Maps a pixel and a channel to the input; also defined for pixels beyond the last.
        """
