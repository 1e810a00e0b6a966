"""Base class of the schedules for CPUs."""

from __future__ import annotations

from mobilenet_tvm.schedules.base import D, Schedule, W
from mobilenet_tvm.schedules.workloads import FLOAT32, Workload
from mobilenet_tvm.targets.target import Target

#: Starting the threads takes about as long as this many operations on one of them.
PARALLEL_FLOPS = 200_000


class CpuSchedule(Schedule[W, D]):
    """A CPU schedule for float32 layers without gates."""

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        plain = workload.types == FLOAT32 and not workload.gates
        return plain and super().takes(workload, target)
