"""Registry of schedules: the first in a target's list that accepts a layer computes it.

To add a schedule, add a file and a line in these lists.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from tvm import tirx

from mobilenet_tvm.schedules.base import Array, Decision, Schedule, default_decision
from mobilenet_tvm.schedules.cpu import (
    block,
    convolution,
    depthwise,
    depthwise_pointwise,
    pointwise,
    pooling,
    stem,
    window_pooling,
)
from mobilenet_tvm.schedules.cpu.integer import amx_pointwise
from mobilenet_tvm.schedules.cpu.integer import depthwise as integer_depthwise
from mobilenet_tvm.schedules.cpu.integer import pointwise as integer_pointwise
from mobilenet_tvm.schedules.cpu.integer import pointwise_depthwise as integer_pointwise_depthwise
from mobilenet_tvm.schedules.cpu.integer import stem as integer_stem
from mobilenet_tvm.schedules.gpu import convolution as gpu_convolution
from mobilenet_tvm.schedules.gpu import depthwise as gpu_depthwise
from mobilenet_tvm.schedules.gpu import depthwise_pointwise as gpu_depthwise_pointwise
from mobilenet_tvm.schedules.gpu import pointwise as gpu_pointwise
from mobilenet_tvm.schedules.gpu import pooling as gpu_pooling
from mobilenet_tvm.schedules.gpu import (
    shared_depthwise_pointwise,
    shared_pointwise,
    tensor_core_depthwise_pointwise,
    tensor_core_pointwise,
)
from mobilenet_tvm.schedules.gpu import stem as gpu_stem
from mobilenet_tvm.schedules.workloads import OPERATORS, Workload
from mobilenet_tvm.targets.target import Target

_CPU: tuple[Schedule[Any, Any], ...] = (
    block.SCHEDULE,
    depthwise_pointwise.SCHEDULE,
    stem.SCHEDULE,
    convolution.SCHEDULE,
    depthwise.SCHEDULE,
    pointwise.SCHEDULE,
    pooling.SCHEDULE,
    window_pooling.SCHEDULE,
    integer_pointwise_depthwise.SCHEDULE,
    integer_stem.SCHEDULE,
    integer_depthwise.SCHEDULE,
    amx_pointwise.SCHEDULE,
    integer_pointwise.SCHEDULE,
)
_OPENCL: tuple[Schedule[Any, Any], ...] = (
    gpu_depthwise_pointwise.SCHEDULE,
    gpu_stem.SCHEDULE,
    gpu_convolution.SCHEDULE,
    gpu_depthwise.SCHEDULE,
    gpu_pointwise.SCHEDULE,
    gpu_pooling.SCHEDULE,
)
_CUDA: tuple[Schedule[Any, Any], ...] = (
    tensor_core_depthwise_pointwise.SCHEDULE,
    tensor_core_pointwise.SCHEDULE,
    shared_depthwise_pointwise.SCHEDULE,
    shared_pointwise.SCHEDULE,
    gpu_stem.SCHEDULE,
    gpu_convolution.SCHEDULE,
    gpu_depthwise.SCHEDULE,
    gpu_pooling.SCHEDULE,
)
#: Schedules by kind of target, in order of priority.
SCHEDULES = {"llvm": _CPU, "opencl": _OPENCL, "cuda": _CUDA}

#: Decisions that are known to be valid or not: a log has many records of the same ones.
_KEPT = 1 << 14

_BY_DECISION = {
    schedule.decision_type: schedule for kind in SCHEDULES.values() for schedule in kind
}


@functools.cache
def find(workload: Workload, target: Target) -> Schedule[Any, Any] | None:
    """Return a layer's schedule on a target, or None, as for some fused layers."""
    schedules = SCHEDULES[target.kind]
    return next((schedule for schedule in schedules if schedule.takes(workload, target)), None)


def _schedule(workload: Workload, target: Target) -> Schedule[Any, Any]:
    schedule = find(workload, target)
    if schedule is None:
        raise ValueError(
            f"{target.name} has no schedule for {workload.operator} of {workload.dtype}"
        )
    return schedule


def default(workload: Workload, target: Target) -> Decision:
    """Return the decision derived from the target's description alone."""
    found: Decision = default_decision(_schedule(workload, target), workload, target)
    return found


def decisions(workload: Workload, target: Target) -> list[Decision]:
    """Return the valid decisions of a workload, the default first, without duplicates."""
    others = _schedule(workload, target).decisions(workload, target)
    return list(dict.fromkeys([default(workload, target), *others]))


def decision(workload: Workload, values: Mapping[str, Any], target: Target) -> Decision:
    """Return a decision read from outside, such as a tuning log, after validation.

    Parameters
    ----------
    workload : Workload
        The layer.
    values : mapping of str to int or bool
        Values by name, as in `vars` of a decision. They are validated.
    target : Target
        The machine that the code is for.

    Returns
    -------
    Decision
        Of the type of the layer's schedule.

    Raises
    ------
    ValueError
        If a name or a type is wrong, or the decision is not valid for this layer and target.
    """
    schedule = _schedule(workload, target)
    types = _types_of(schedule)
    if set(values) != set(types):
        raise ValueError(f"it has {[*values]} instead of {[*types]}")
    for name, value in values.items():
        # isinstance would accept True as an int.
        if type(value) is not types[name]:
            raise ValueError(f"{name} {value!r} is not of type {types[name].__name__}")
    made: Decision = schedule.decision_type(**values)
    if not _is_valid(schedule, workload, made, target):
        shown = " ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"{shown} does not fit {target.name} and {workload}")
    return made


@functools.cache
def _types_of(schedule: Schedule[Any, Any]) -> dict[str, type]:
    return get_type_hints(schedule.decision_type)


@functools.lru_cache(_KEPT)
def _is_valid(
    schedule: Schedule[Any, Any], workload: Workload, decision: Decision, target: Target
) -> bool:
    return schedule.valid(workload, decision, target)


def pays(workload: Workload, target: Target) -> bool:
    """Return whether a fused or gated layer has a schedule and is faster than its parts."""
    schedule = find(workload, target)
    return schedule is not None and schedule.pays(workload, target)


def fuse(parts: Sequence[Workload], target: Target) -> Workload | None:
    """Fuse consecutive layers, each read only by the next, or return None if it does not pay."""
    fused = (kind.fuse(parts) for kind in OPERATORS.values())
    return next((layer for layer in fused if layer and pays(layer, target)), None)


def stages(workload: Workload, target: Target) -> list[Workload]:
    """Return the layers that together compute a workload; usually just the workload itself."""
    return _schedule(workload, target).stages(workload, target)


def pack(decision: Decision, weights: Sequence[Array]) -> list[Array]:
    """Pack weights, one array per layer that has any, for the function of a decision."""
    return _BY_DECISION[type(decision)].pack(weights, decision)


def arrange(decision: Decision, operand: Array, part: int = 0) -> Array:
    """Return an operand with a value per channel as the function of a decision reads it.

    `part` is which of the layers that are fused into one has the operand.
    """
    arranged: Array = _BY_DECISION[type(decision)].arrange(operand, decision, part)
    return arranged


def build(workload: Workload, decision: Decision, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function of a workload."""
    return _BY_DECISION[type(decision)].build(workload, decision, target)


def features(workload: Workload, decision: Decision, target: Target) -> dict[str, float]:
    """Describe a decision for the tuner's cost model."""
    return _BY_DECISION[type(decision)].features(workload, decision, target)


def cycles(workload: Workload, decision: Decision, target: Target) -> float:
    """Estimate a decision's cost in cycles; on CPUs, comparable only within one layer."""
    return _BY_DECISION[type(decision)].cycles(workload, decision, target)
