"""Which estimates go into a tuning log."""

from __future__ import annotations

from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.tuning.emulated.ports import CORES
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

#: A candidate replaces the default if its estimate is shorter by this share.
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
        return
    best = task.times[task.best].seconds
    if task.best != 0 and best > (1 - MIN_GAIN) * task.default.seconds:
        task.confirmed = {0: task.default}


def replaced(tasks: list[Task], log: TuningLog) -> dict[Workload, tuple[Decision, Measurement]]:
    """Return the decisions for a log: one for each layer whose default is replaced.

    If the log has an earlier estimate for a layer whose default is now kept, the default is
    returned too, to replace it.
    """
    stated = {record.workload for record in log.records if record.source == "emulated"}
    return {
        task.workload: (task.decision, task.times[task.best])
        for task in tasks
        if task.default and (task.best != 0 or str(task.workload) in stated)
    }
