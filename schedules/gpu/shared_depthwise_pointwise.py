"""Depthwise and pointwise in one kernel for NVIDIA GPUs: what is between stays in shared memory.

As `shared_pointwise`, but the threads of a group compute the pixels that they stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx

from mobilenet_tvm.schedules.gpu import shared_pointwise, tensor_core_pointwise
from mobilenet_tvm.schedules.gpu.depthwise_pointwise import joined, saves_time
from mobilenet_tvm.schedules.gpu.shared_pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.gpu.threads import arithmetic, gpu_of, lanes_of, words
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
    second = workload.pointwise
    cores = tensor_core_pointwise.pays(second, target)
    half = tensor_core_pointwise if cores else shared_pointwise
    apart = half.cycles(second, half.default(second, target), gpu)
    return saves_time(workload, target, cycles(workload, fused, gpu), apart)


def default(workload: DepthwisePointwise, target: Target) -> Decision:
    """Choose the decision of the fewest cycles by a model of a unit.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    target : Target
        Its GPU: units, registers, shared memory, rates.

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
    return shared_pointwise.space(workload.pointwise, target)


def valid(workload: DepthwisePointwise, decision: PointwiseDecision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    return shared_pointwise.valid(workload.pointwise, decision, target)


def decisions(workload: DepthwisePointwise, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once."""
    found = shared_pointwise.decisions(workload.pointwise, target)
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
        Gives the outputs of a work-group.
    """
    return np.ascontiguousarray(taps), shared_pointwise.pack(matrix, decision)


def build(
    workload: DepthwisePointwise,
    decision: Decision,
    target: Target,
) -> tirx.PrimFunc:
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
    sch = joined(workload, decision, gpu_of(target), shared_pointwise)
    lanes = lanes_of(arithmetic(workload.dtype, gpu_of(target)))
    shared_pointwise.schedule(sch, workload.pointwise, decision, lanes)
    return sch.mod["main"]


def registers(workload: DepthwisePointwise, decision: Decision, gpu: Gpu) -> int:
    """Return what a thread holds, which is the pointwise half's."""
    return shared_pointwise.registers(workload.pointwise, decision, gpu)


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
    high, wide = decision.tile_m * decision.threads_m, decision.tile_n * decision.threads_n
    multiply = shared_pointwise.cycles(workload.pointwise, decision, gpu)
    return filtering(workload, high, wide, gpu) + multiply


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
