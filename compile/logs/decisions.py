"""Which decision a layer gets: that of a tuning log that has the layer, or the default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mobilenet_tvm.compile.logs.log import Record, TuningLog, in_words, shipped_log, user_log
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload, parse
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target


class Decisions:
    """Decides how to compute each layer, for `pipeline.lower`.

    Parameters
    ----------
    logs : sequence of TuningLog
        All of the target that is compiled for. Where several have a layer, a measured record
        takes precedence over a static one, then an earlier log over a later one.
    """

    def __init__(self, logs: Sequence[TuningLog]) -> None:
        self._bests = [log.bests() for log in logs]

    def __call__(self, workload: Workload, target: Target) -> Decision:
        """Return the decision for a layer."""
        record = self.record(workload)
        if record is None:
            return registry.default(workload, target)
        return registry.decision(workload, record.decision, target)

    def source(self, workload: Workload) -> str:
        """Return where a layer's decision comes from: its record's source, or `default`."""
        record = self.record(workload)
        return "default" if record is None else record.source

    def record(self, workload: Workload) -> Record | None:
        """Return the record that a layer's decision comes from; None for the default."""
        text = str(workload)
        known = [bests[text] for bests in self._bests if text in bests]
        return max(known, key=lambda record: record.source == "measured", default=None)


def _own_logs(target: Target) -> list[TuningLog]:
    """Return the user's log of a target and the shipped one, as far as they can be read."""
    paths = [shipped_log(target)]
    # A user without a home folder has no log.
    with suppress(UserError):
        paths.insert(0, user_log(target))
    return [TuningLog.read(path, target) for path in paths if os.access(path, os.R_OK)]


def _fitting(log: TuningLog, target: Target) -> TuningLog:
    """Return another target's log with the decisions that this target can use too."""

    def fits(record: Record) -> bool:
        try:
            registry.decision(parse(record.workload), record.decision, target)
        except ValueError:
            return False
        return True

    log.records = [record for record in log.records if fits(record)]
    return log


def find_logs(choice: str | Path | None, target: Target) -> list[TuningLog]:
    """Read the logs that a target's decisions come from.

    Parameters
    ----------
    choice : str, Path or None
        A file, or `none`. Default: the user's own log, then the shipped one, as far as they can be
        read.
    target : Target
        The machine that the code is for.

    Returns
    -------
    list of TuningLog
        The first takes precedence.

    Raises
    ------
    UserError
        If a file cannot be read, or no line of the chosen one can be used.
    """
    if choice is None:
        logs, base = _own_logs(target), target.base
        while base:
            logs += [_fitting(log, target) for log in _own_logs(PRESETS[base])]
            base = PRESETS[base].base
        return logs
    if str(choice) == "none":
        return []
    log = TuningLog.read(choice, target)
    if log.skipped and not log.records:
        raise UserError(
            f"{choice}: holds no record for {target.preset} ({in_words(log.skipped_by_reason)}); "
            "give another log with --tuning-log, or none"
        )
    return [log]
