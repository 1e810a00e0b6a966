"""Schedules: one per operator, and fallback rules for everything else."""

from __future__ import annotations

import tvm
from tvm import tirx

from mobilenet_tvm.schedules.base import Rule
from mobilenet_tvm.schedules.fallback import (
    convolution,
    elementwise,
    gpu,
    gpu_rows,
    reduction,
    softmax,
)
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

#: Fallback rules for CPUs, in order of priority; the last one accepts any function.
RULES: tuple[Rule, ...] = (
    convolution.apply,
    elementwise.apply,
    softmax.apply,
    reduction.apply,
)
#: Fallback rules for GPUs.
GPU_RULES: tuple[Rule, ...] = (gpu.apply,)


def schedule_module(mod: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Schedule each function of a module by the first fallback rule that accepts it.

    Parameters
    ----------
    mod : IRModule
        Relax functions, which are left unchanged, and unscheduled TensorIR functions.
    target : Target
        The machine that the code is for.

    Returns
    -------
    IRModule
        The same functions, scheduled.

    Raises
    ------
    UserError
        If a function consists of loops that cannot run on a GPU.
    """
    rules = RULES if target.gpu is None else GPU_RULES
    scheduled = {}
    for name, func in mod.functions.items():
        if isinstance(func, tirx.PrimFunc) and _is_written_out(func):
            if target.gpu is not None:
                func = _on_threads(func, name.name_hint)
        elif isinstance(func, tirx.PrimFunc):
            schedules = (rule(func, target) for rule in rules)
            schedule = next(s for s in schedules if s is not None)
            func = schedule.mod["main"].with_attrs(dict(func.attrs))
        scheduled[name] = func
    return tvm.IRModule(scheduled, attrs=mod.attrs)


def _is_written_out(func: tirx.PrimFunc) -> bool:
    """Return whether a function is one block, whose loops are part of its definition."""
    return str(func.body.block.name_hint) != "root"


def _on_threads(func: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """Return a function whose loops are part of its definition with these bound to threads."""
    # That of ScatterElements has its own threads.
    if gpu.binds_threads(func.body.block):
        return func
    bound = gpu_rows.apply(func)
    if bound is None:
        raise UserError(
            f"operator {name} cannot be compiled for a GPU; choose a CPU, or remove it from the "
            "model"
        )
    return bound
