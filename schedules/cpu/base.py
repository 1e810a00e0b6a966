"""What all schedules for CPUs share."""

from __future__ import annotations

from mobilenet_tvm.schedules.base import D, Schedule, W
from mobilenet_tvm.schedules.workloads import FLOAT32, Workload
from mobilenet_tvm.targets.target import Target

#: Starting the threads costs as much as one of them needs for about as many operations.
PARALLEL_FLOPS = 200_000


class CpuSchedule(Schedule[W, D]):
    """A schedule for CPUs, of float32 layers without gates."""

    def takes(self, workload: Workload, target: Target) -> bool:
        """Tell whether a layer is this schedule's."""
        plain = workload.types == FLOAT32 and not workload.gates
        return plain and super().takes(workload, target)
