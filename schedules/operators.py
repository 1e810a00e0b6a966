"""The operators that have schedules of their own, by workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, get_type_hints

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


def decision(workload: Workload, values: Mapping[str, Any], target: Target) -> Any:
    """Return the decision that somebody else wrote down, as a tuning log has it.

    Parameters
    ----------
    workload : Workload
        The layer.
    values : mapping of str to int or bool
        By name, as in `vars` of a decision. Nothing is taken on trust.
    target : Target
        The machine that the code is for.

    Returns
    -------
    object
        The workload's `Decision`, which `build` takes.

    Raises
    ------
    ValueError
        If a name or a type is wrong, or the schedule cannot do it for this layer and target.
    """
    module = _MODULES[type(workload)]
    types = get_type_hints(module.Decision)
    if set(values) != set(types):
        raise ValueError(f"it has {[*values]} instead of {[*types]}")
    for name, value in values.items():
        # isinstance would take True for a number.
        if type(value) is not types[name]:
            raise ValueError(f"{name} {value!r} is no {types[name].__name__}")
    made = module.Decision(**values)
    if not module.valid(workload, made, target):
        shown = " ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"{shown} does not fit {target.name} and {workload}")
    return made


def decisions(workload: Workload, target: Target) -> list[Any]:
    """Return the valid decisions of a workload's space, the default first, each once."""
    module = _MODULES[type(workload)]
    return list(
        dict.fromkeys([module.default(workload, target), *module.decisions(workload, target)])
    )


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
