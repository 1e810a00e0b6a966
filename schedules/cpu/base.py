"""Base class of the schedules for CPUs, and the types in which these compute."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from mobilenet_tvm.schedules.base import D, Schedule, W
from mobilenet_tvm.schedules.workloads import FLOAT32, Types, Workload
from mobilenet_tvm.targets.target import Target

#: Bytes of a cache line.
CACHE_LINE = 64
#: Starting the threads takes about as long as this many operations on one of them.
PARALLEL_FLOPS = 200_000


class CpuSchedule(Schedule[W, D]):
    """A CPU schedule for float layers without gates."""

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        plain = computes_floats(workload, target) and not workload.gates
        return plain and super().takes(workload, target)


def computes_floats(workload: Workload, target: Target) -> bool:
    """Return whether a layer is one of float32, or of float16 on a CPU that multiplies it."""
    return workload.types == FLOAT32 or (workload.dtype == "float16" and target.float16)


def function_of(tensors: Sequence[te.Tensor], target: Target) -> tirx.PrimFunc:
    """Return the function that computes the last of the tensors from the others.

    On 64-bit ARM its indices have 64 bits. Of 32 bits, LLVM often cannot tell that they do not
    overflow, and each load takes an addition of its own: V2 in float16 executes 64.0 million
    instructions, and 61.3 with 64 bits.

    Parameters
    ----------
    tensors : sequence of Tensor
        The parameters.
    target : Target
        The target of the code.
    """
    wide = target.architecture == "aarch64"
    return te.create_prim_func(list(tensors), "int64" if wide else None)


def product_type(types: Types) -> str:
    """Return the type in which a layer's data and weights are multiplied."""
    return types.data if types.data == types.weights else types.sums


def vector_lanes(types: Types, target: Target) -> int:
    """Return how many of a layer's products a vector register holds."""
    return target.lanes_of(product_type(types))
