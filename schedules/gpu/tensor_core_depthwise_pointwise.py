"""Depthwise and pointwise in one kernel in float16, the pointwise half on tensor cores.

As `tensor_core_pointwise`, but the threads of a group compute the pixels that they stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx

from mobilenet_tvm.schedules.gpu import tensor_core_pointwise
from mobilenet_tvm.schedules.gpu.depthwise_pointwise import joined, saves_time
from mobilenet_tvm.schedules.gpu.shared_depthwise_pointwise import filtering
from mobilenet_tvm.schedules.gpu.tensor_core_pointwise import LANES
from mobilenet_tvm.schedules.gpu.tensor_core_pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.gpu.threads import gpu_of
from mobilenet_tvm.schedules.workload import DepthwisePointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


class Decision(PointwiseDecision):
    """How to compute a fused layer: the tile of its pointwise half."""


def pays(workload: DepthwisePointwise, target: Target) -> bool:
    """Tell whether fusing saves more memory traffic than it costs in work that is done again.

    Each group of outputs computes the depthwise half anew.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    target : Target
        Its GPU.
    """
    gpu, fused = gpu_of(target), default(workload, target)
    second = tensor_core_pointwise.default(workload.pointwise, target)
    apart = tensor_core_pointwise.cycles(workload.pointwise, second, gpu)
    return saves_time(workload, target, cycles(workload, fused, gpu), apart)


def default(workload: DepthwisePointwise, target: Target) -> Decision:
    """Choose the decision of the fewest cycles by a model of a unit.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    target : Target
        Its GPU: units, shared memory, rates.

    Returns
    -------
    Decision
        Always valid for the workload.
    """
    gpu = gpu_of(target)
    candidates = decisions(workload, target)
    return min(candidates, key=lambda d: (cycles(workload, d, gpu), tuple(vars(d).values())))


def space(workload: DepthwisePointwise, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    return tensor_core_pointwise.space(workload.pointwise, target)


def valid(workload: DepthwisePointwise, decision: PointwiseDecision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    return tensor_core_pointwise.valid(workload.pointwise, decision, target)


def decisions(workload: DepthwisePointwise, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once."""
    found = tensor_core_pointwise.decisions(workload.pointwise, target)
    return [Decision(**vars(decision)) for decision in found]


def pack(
    taps: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any], decision: Decision
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Lay both halves' weights out as the schedule reads them.

    Parameters
    ----------
    taps : ndarray
        [kernel height, kernel width, channels].
    matrix : ndarray
        [channels, outputs].
    decision : Decision
        Gives the inputs of a step and the outputs of a work-group.
    """
    return np.ascontiguousarray(taps), tensor_core_pointwise.pack(matrix, decision)


def build(workload: DepthwisePointwise, decision: Decision, target: Target) -> tirx.PrimFunc:
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
    sch = joined(workload, decision, gpu_of(target), tensor_core_pointwise)
    tensor_core_pointwise.schedule(sch, workload.pointwise, decision, LANES)
    return sch.mod["main"]


def registers(workload: DepthwisePointwise, decision: Decision, gpu: Gpu) -> int:
    """Return what a thread holds, which is the pointwise half's."""
    return tensor_core_pointwise.registers(workload.pointwise, decision, gpu)


def cycles(workload: DepthwisePointwise, decision: Decision, gpu: Gpu) -> float:
    """Estimate the cycles of a layer.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    decision : Decision
        How it is computed.
    gpu : Gpu
        Its units take work-groups in turns.
    """
    multiply = tensor_core_pointwise.cycles(workload.pointwise, decision, gpu)
    return filtering(workload, decision.high, decision.wide, gpu) + multiply
