"""The operators that have schedules of their own, by workload."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from tvm import tirx

from mobilenet_tvm.schedules import block, depthwise, depthwise_pointwise, pointwise, pooling, stem
from mobilenet_tvm.schedules.workload import (
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Workload,
)
from mobilenet_tvm.targets.target import Target

_MODULES: dict[type, ModuleType] = {
    Block: block,
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


def pays(workload: Block | DepthwisePointwise, target: Target) -> bool:
    """Tell whether a fused layer is faster than its parts apart."""
    return bool(_MODULES[type(workload)].pays(workload, target))


def pack(
    workload: Workload, weights: Sequence[np.ndarray[Any, Any]], decision: Any
) -> list[np.ndarray[Any, Any]]:
    """Return weights in the layout that a decision's function reads.

    Parameters
    ----------
    workload : Workload
        The layer.
    weights : sequence of ndarray
        One per convolution in it.
    decision : object
        The workload's.
    """
    packed = [] if not weights else _MODULES[type(workload)].pack(*weights, decision)
    return [packed] if isinstance(packed, np.ndarray) else list(packed)


def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function of a workload."""
    return _MODULES[type(workload)].build(workload, decision, target)
