"""The operators that have schedules of their own, by workload."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tvm import tirx

from mobilenet_tvm.schedules import depthwise, depthwise_pointwise, pointwise, pooling, stem
from mobilenet_tvm.schedules.workload import (
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Workload,
)
from mobilenet_tvm.targets.target import Target

_MODULES: dict[type, ModuleType] = {
    Convolution: stem,
    Depthwise: depthwise,
    DepthwisePointwise: depthwise_pointwise,
    GlobalPool: pooling,
    Pointwise: pointwise,
}


def operator(workload: Workload) -> str:
    """Return the operator's name, as in the workload's own text."""
    return str(workload).partition(" ")[0]


def default(workload: Workload, target: Target) -> Any:
    """Return the decision that follows from the target's description alone."""
    return _MODULES[type(workload)].default(workload, target)


def space(workload: Workload, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    candidates: dict[str, list[Any]] = _MODULES[type(workload)].space(workload, target)
    return candidates


def pack(workload: Workload, weight: Any, decision: Any) -> Any:
    """Return weights in the layout that a decision's function reads.

    Parameters
    ----------
    workload : Workload
        The layer.
    weight : ndarray or tuple of ndarray
        A fused layer has two.
    decision : object
        The workload's.
    """
    return _MODULES[type(workload)].pack(weight, decision)


def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function of a workload."""
    return _MODULES[type(workload)].build(workload, decision, target)
