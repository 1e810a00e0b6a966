"""How a loop nest becomes fast: schedules by operator, and rules for what has none of its own."""

from __future__ import annotations

import tvm
from tvm import tirx

from mobilenet_tvm.schedules.base import Rule
from mobilenet_tvm.schedules.fallback import convolution, elementwise, gpu, reduction
from mobilenet_tvm.targets.target import Target

#: Rules for CPUs, in order of priority: the last one takes anything.
RULES: tuple[Rule, ...] = (convolution.apply, elementwise.apply, reduction.apply)
#: The same for GPUs.
GPU_RULES: tuple[Rule, ...] = (gpu.apply,)


def schedule_module(mod: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Give each loop nest of a module the schedule of the first rule that takes it.

    Parameters
    ----------
    mod : IRModule
        Relax functions, left as they are, and unscheduled TensorIR functions.
    target : Target
        The machine that the code is for.

    Returns
    -------
    IRModule
        The same functions, scheduled.
    """
    rules = RULES if target.gpu is None else GPU_RULES
    scheduled = {}
    for name, func in mod.functions.items():
        if isinstance(func, tirx.PrimFunc):
            schedules = (rule(func, target) for rule in rules)
            schedule = next(s for s in schedules if s is not None)
            func = schedule.mod["main"].with_attrs(dict(func.attrs))
        scheduled[name] = func
    return tvm.IRModule(scheduled, attrs=mod.attrs)
