"""Which estimates go into a tuning log."""

from __future__ import annotations

from collections.abc import Mapping

from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.tuning.emulated.ports import CORES
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

#: A candidate replaces the default if its estimate is shorter by this share. On x86, decisions with
#: estimates shorter by 2 to 5 % were faster in 62 % (depthwise) to 76 % (pointwise) of the cases,
#: and those with 5 to 10 % in 70 to 82 %.
MIN_GAIN = 0.02


def device_name(target: Target) -> str:
    """Return what records name as their device.

    Raises
    ------
    UserError
        If the target is no core whose ports are known.
    """
    if target.preset not in CORES:
        known = ", ".join(CORES)
        raise UserError(f"'{target.name}' is no core that can be emulated; choose from: {known}")
    return f"emulated {target.preset}"


def settle(task: Task) -> None:
    """Keep the default unless another decision is clearly better."""
    if task.default is None:
        task.ended = "the default decision cannot be estimated"
    elif not _better(task.times[task.best], task.default):
        task.confirmed = {0: task.default}


def replaced(
    estimates: Mapping[Workload, Mapping[Decision, Measurement]], log: TuningLog, target: Target
) -> dict[Workload, tuple[Decision, Measurement]]:
    """Return the decisions for a log: one for each layer whose default is replaced.

    If the log has an earlier estimate for a layer whose default is now kept, the default is
    returned too, to replace it.

    Parameters
    ----------
    estimates : mapping
        By layer and decision; a layer without its default is left out.
    log : TuningLog
        The log as it is.
    target : Target
        The emulated machine.
    """
    stated = {record.workload for record in log.records if record.source == "emulated"}
    found = {}
    for workload, times in estimates.items():
        default = registry.default(workload, target)
        if default not in times:
            continue
        best = min(times, key=lambda decision: times[decision].seconds)
        if _better(times[best], times[default]):
            found[workload] = (best, times[best])
        elif str(workload) in stated:
            found[workload] = (default, times[default])
    return found


def _better(one: Measurement, default: Measurement) -> bool:
    return one.seconds <= (1 - MIN_GAIN) * default.seconds
