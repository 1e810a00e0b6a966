"""Depthwise and pointwise in one kernel on a GPU: a thread computes the pixels that it multiplies.

As `pointwise`, where what is between never leaves the registers. Each tile of outputs computes the
depthwise half anew, so it is for layers of few outputs.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.gpu import depthwise, pointwise
from mobilenet_tvm.schedules.gpu.pointwise import Decision as PointwiseDecision
from mobilenet_tvm.schedules.gpu.threads import (
    GROUPS,
    arithmetic,
    fma_per_cycle,
    gpu_of,
    guarded,
    lanes_of,
    overlapped,
    words,
)
from mobilenet_tvm.schedules.workload import DepthwisePointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target

#: A model is no measurement: fused layers have to save a tenth.
WORTH_IT = 0.9


class Decision(PointwiseDecision):
    """How to compute a fused layer: the tile of its pointwise half."""


def pays(workload: DepthwisePointwise, target: Target) -> bool:
    """Tell whether fusing saves more memory traffic than it costs in work that is done again.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    target : Target
        Its GPU.
    """
    gpu = gpu_of(target)
    if not decisions(workload, target):
        return False
    second = pointwise.default(workload.pointwise, target)
    apart = pointwise.cycles(workload.pointwise, second, gpu)
    return saves_time(workload, target, cycles(workload, default(workload, target), gpu), apart)


def saves_time(workload: DepthwisePointwise, target: Target, fused: float, multiply: float) -> bool:
    """Tell whether one kernel is faster than two, each the slower of its arithmetic and traffic.

    What fusing saves is the tensor between, written and read, and the start of a kernel (source:
    Qararyah and others, 2024, arXiv 2404.19331, whose planner weighs traffic alike).

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    target : Target
        Its GPU.
    fused, multiply : float
        Cycles of the fused kernel and of the pointwise half alone, apart from traffic.
    """
    gpu, first = gpu_of(target), workload.depthwise
    filtering = depthwise.cycles(first, depthwise.default(first, target), gpu)

    def with_traffic(cycles: float, moved: float) -> float:
        # Units together take half of what their caches give from the one that they share.
        cached = gpu.units * gpu.load_bytes_per_cycle / 2
        memory = gpu.memory_gb_per_s / gpu.clock_ghz
        return overlapped(cycles, moved / (cached if moved < gpu.l2_bytes else memory))

    apart = with_traffic(filtering, first.bytes)
    apart += with_traffic(multiply, workload.pointwise.bytes) + gpu.launch_cycles
    return with_traffic(fused, workload.bytes) < WORTH_IT * apart


def default(workload: DepthwisePointwise, target: Target) -> Decision:
    """Choose the decision of the fewest cycles by a model of a unit.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    target : Target
        Its GPU: units, registers, threads, rates.

    Returns
    -------
    Decision
        Always valid for the workload.
    """
    gpu = gpu_of(target)
    candidates = [d for d in decisions(workload, target) if d.group == GROUPS[0]]
    return min(candidates, key=lambda d: (cycles(workload, d, gpu), d.tile_m))


def space(workload: DepthwisePointwise, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    return pointwise.space(workload.pointwise, target)


def valid(workload: DepthwisePointwise, decision: PointwiseDecision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    return (
        pointwise.valid(workload.pointwise, decision, target)
        and decision.unroll_k <= lanes_of(workload.dtype)
        and registers(workload, decision, gpu_of(target)) <= gpu_of(target).registers
    )


def decisions(workload: DepthwisePointwise, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once."""
    found = pointwise.decisions(workload.pointwise, target)
    return [Decision(**vars(d)) for d in found if valid(workload, d, target)]


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
        Gives the outputs of a thread.
    """
    return np.ascontiguousarray(taps), pointwise.pack(matrix, decision)


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
    sch = joined(workload, decision, gpu_of(target), pointwise)
    threads = pointwise.schedule(sch, workload.pointwise, decision)
    return guarded(sch, threads, pointwise.thread_count(workload.pointwise, decision))


def joined(
    workload: DepthwisePointwise, decision: Any, gpu: Gpu, half: ModuleType
) -> s_tir.Schedule:
    """Return both halves as one function, the first inlined into what the second reads.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    decision : object
        Of the pointwise half.
    gpu : Gpu
        What it is for.
    half : module
        The schedule of the pointwise half, which remains to be done.
    """
    pixels = half.padded_pixels(workload.pointwise, decision)
    dtype = arithmetic(workload.dtype, gpu)
    data, first, element = depthwise.inlined(workload.depthwise, pixels, dtype)
    weight, operands, result = half.stages(workload.pointwise, decision, element)
    sch = s_tir.Schedule(te.create_prim_func([data, *first, weight, *operands, result]))
    for name in depthwise.STAGES:
        sch.compute_inline(sch.get_sblock(name))
    return sch


def registers(workload: DepthwisePointwise, decision: PointwiseDecision, gpu: Gpu) -> int:
    """Return what a thread holds: the pointwise half's, and a row of inputs and a tap."""
    row = depthwise.Decision(decision.tile_m, decision.group)
    vectors = depthwise.strip_inputs(workload.depthwise, row) + 1
    filtering = words(arithmetic(workload.dtype, gpu), vectors * lanes_of(workload.dtype))
    return pointwise.registers(workload.pointwise, decision, gpu) + filtering


def cycles(workload: DepthwisePointwise, decision: Decision, gpu: Gpu) -> float:
    """Estimate the cycles of a layer, as if memory were infinitely fast.

    Parameters
    ----------
    workload : DepthwisePointwise
        The layer.
    decision : Decision
        How it is computed.
    gpu : Gpu
        Its threads read different pixels, each of a cache line of its own.
    """
    second, kernel = workload.pointwise, workload.depthwise.kernel
    warps = pointwise.thread_count(second, decision) / gpu.lockstep
    row = depthwise.strip_inputs(
        workload.depthwise, depthwise.Decision(decision.tile_m, decision.group)
    )
    lanes = lanes_of(workload.dtype)
    operations = lanes * kernel[0] * kernel[1] * decision.tile_m
    load = kernel[0] * (row * gpu.lockstep + kernel[1])
    vectors = second.inputs / lanes
    multiply = operations * gpu.lockstep / fma_per_cycle(workload.dtype, gpu)
    filtering = overlapped(multiply, load)
    return warps * vectors * filtering / gpu.units + pointwise.cycles(second, decision, gpu)
