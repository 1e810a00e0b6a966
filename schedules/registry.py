"""The operators that have schedules of their own, by workload."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import numpy as np
from tvm import tirx

from mobilenet_tvm.schedules.cpu import (
    block,
    depthwise,
    depthwise_pointwise,
    pointwise,
    pooling,
    stem,
)
from mobilenet_tvm.schedules.gpu import depthwise as gpu_depthwise
from mobilenet_tvm.schedules.gpu import depthwise_pointwise as gpu_depthwise_pointwise
from mobilenet_tvm.schedules.gpu import (
    gates,
    shared_depthwise_pointwise,
    shared_pointwise,
    tensor_core_depthwise_pointwise,
    tensor_core_pointwise,
)
from mobilenet_tvm.schedules.gpu import pointwise as gpu_pointwise
from mobilenet_tvm.schedules.gpu import pooling as gpu_pooling
from mobilenet_tvm.schedules.gpu import stem as gpu_stem
from mobilenet_tvm.schedules.gpu.threads import gpu_of
from mobilenet_tvm.schedules.workloads import (
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Workload,
)
from mobilenet_tvm.targets.target import Target

# A schedule is a file's functions, or an object that has the same ones as methods.
_CPU: dict[type, Any] = {
    Block: block,
    Convolution: stem,
    Depthwise: depthwise,
    DepthwisePointwise: depthwise_pointwise,
    GlobalPool: pooling,
    Pointwise: pointwise,
}
_GPU: dict[type, Any] = {
    Convolution: gpu_stem,
    Depthwise: gpu_depthwise,
    DepthwisePointwise: gpu_depthwise_pointwise.SCHEDULE,
    GlobalPool: gpu_pooling,
    Pointwise: gpu_pointwise,
}
_CUDA: dict[type, Any] = {
    **_GPU,
    DepthwisePointwise: shared_depthwise_pointwise.SCHEDULE,
    Pointwise: shared_pointwise,
}
_TENSOR_CORES: dict[type, Any] = {
    DepthwisePointwise: tensor_core_depthwise_pointwise.SCHEDULE,
    Pointwise: tensor_core_pointwise,
}
#: By the kind of a target.
_MODULES = {"llvm": _CPU, "opencl": _GPU, "cuda": _CUDA}
_BY_DECISION = {
    module.Decision: module
    for modules in (*_MODULES.values(), _TENSOR_CORES)
    for module in modules.values()
}


@functools.cache
def _on_tensor_cores(workload: Workload, target: Target) -> bool:
    if isinstance(workload, Pointwise):
        return tensor_core_pointwise.pays(workload, target)
    if not isinstance(workload, DepthwisePointwise):
        return False
    if not tensor_core_pointwise.pays(workload.pointwise, target):
        return False
    cores, others = (
        schedule.cycles(workload, schedule.default(workload, target), gpu_of(target))
        for schedule in (_TENSOR_CORES[DepthwisePointwise], _CUDA[DepthwisePointwise])
    )
    return bool(cores < others)


def _module(workload: Workload, target: Target) -> Any:
    if _on_tensor_cores(workload, target):
        return _TENSOR_CORES[type(workload)]
    return _MODULES[target.kind][type(workload)]


def operator(workload: Workload) -> str:
    """Return the operator's name, as in the workload's own text."""
    return str(workload).partition(" ")[0]


def supports(workload: Workload, target: Target) -> bool:
    """Tell whether a target has a schedule for an operator: GPUs have none for some fused ones.

    CPUs have none for float16, and none for gates.
    """
    gated = isinstance(workload, Pointwise) and workload.gates > 0
    takes = target.gpu is not None or (workload.dtype == "float32" and not gated)
    return takes and type(workload) in _MODULES[target.kind]


@functools.cache
def default(workload: Workload, target: Target) -> Any:
    """Return the decision that follows from the target's description alone."""
    return _module(workload, target).default(workload, target)


def space(workload: Workload, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    candidates: dict[str, list[Any]] = _module(workload, target).space(workload, target)
    return candidates


def pays(workload: Block | DepthwisePointwise | Pointwise, target: Target) -> bool:
    """Tell whether a fused layer, or one with gates, is faster than its parts apart."""
    if not supports(workload, target):
        return False
    if isinstance(workload, Pointwise):
        return gates.pay(workload, functools.partial(_default_cycles, target=target), target)
    return bool(_module(workload, target).pays(workload, target))


def _default_cycles(workload: Workload, target: Target) -> float:
    return estimate(workload, default(workload, target), target)["cycles"]


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
    if not supports(workload, target):
        raise ValueError(
            f"{target.name} has no schedule for {operator(workload)} of {workload.dtype}"
        )
    module = _module(workload, target)
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
    others = _module(workload, target).decisions(workload, target)
    return list(dict.fromkeys([default(workload, target), *others]))


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
    if not workload.weights:
        return []
    packed = _BY_DECISION[type(decision)].pack(*weights, decision)
    return [packed] if isinstance(packed, np.ndarray) else list(packed)


def estimate(workload: Workload, decision: Any, target: Target) -> dict[str, float]:
    """Return what a GPU schedule's model says of a decision: registers of a thread, cycles."""
    module = _BY_DECISION[type(decision)]
    return {
        "registers_of_thread": module.registers(workload, decision, target.gpu),
        "cycles": module.cycles(workload, decision, target.gpu),
    }


def stages(workload: Workload, target: Target) -> list[Workload]:
    """Return the layers that together compute one: itself, where one function does it well."""
    if target.gpu is None or not isinstance(workload, GlobalPool):
        return [workload]
    return [*gpu_pooling.stages(workload, target)]


def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function of a workload."""
    func: tirx.PrimFunc = _BY_DECISION[type(decision)].build(workload, decision, target)
    return func
