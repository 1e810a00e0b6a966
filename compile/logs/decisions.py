"""Which decision a layer gets: a tuning log's, where one knows the layer, else the default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilenet_tvm.compile.logs.log import Record, TuningLog, in_words, shipped_log, user_log
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target


class Decisions:
    """Decides how to compute a layer; what `pipeline.lower` asks.

    Parameters
    ----------
    logs : sequence of TuningLog
        All of the target that is decided for. Where several know a layer, a measured record
        goes before a static one, then an earlier log before a later one.
    """

    def __init__(self, logs: Sequence[TuningLog]) -> None:
        self._logs = logs

    def __call__(self, workload: Workload, target: Target) -> Any:
        """Return the decision for a layer."""
        record = self._record(workload)
        if record is None:
            return registry.default(workload, target)
        return registry.decision(workload, record.decision, target)

    def source(self, workload: Workload) -> str:
        """Return where a layer's decision is from: its record's source, or `default`."""
        record = self._record(workload)
        return "default" if record is None else record.source

    def _record(self, workload: Workload) -> Record | None:
        known = [record for log in self._logs if (record := log.best(workload))]
        return max(known, key=lambda record: record.source == "measured", default=None)


def find_logs(choice: str | Path | None, target: Target) -> list[TuningLog]:
    """Read the logs that a target's layers are decided by.

    Parameters
    ----------
    choice : str, Path or None
        A file, or `none`. Default: the user's own log before the shipped one, where they can be
        read.
    target : Target
        The machine that the code is for.

    Returns
    -------
    list of TuningLog
        The first goes before the others.

    Raises
    ------
    UserError
        If a file cannot be read, or all lines of one that was chosen are of no use.
    """
    if choice is None:
        paths = (user_log(target), shipped_log(target))
        return [TuningLog.read(path, target) for path in paths if os.access(path, os.R_OK)]
    if str(choice) == "none":
        return []
    log = TuningLog.read(choice, target)
    if log.skipped and not log.records:
        raise UserError(
            f"{choice}: holds no record for {target.preset} ({in_words(log.skipped_by_reason)}); "
            "give another with --tuning-log, or none"
        )
    return [log]
