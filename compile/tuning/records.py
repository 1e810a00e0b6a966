"""Stores the results of tuning: each layer's best in the log, all trials in a file beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mobilenet_tvm.compile.logs.log import Record, TuningLog, shipped_log
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.prior import Known
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload, parse
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

_TRIALS = ".trials.jsonl"


class Records:
    """The records of a tuning run and of earlier ones.

    Each trial is written as soon as it is measured, and each new best of a layer to the log. So an
    interrupted run loses nothing, and the next one continues where it stopped.

    Parameters
    ----------
    path : Path
        The log, which need not exist; the trials are in `<name>.trials.jsonl` next to it.
    target : Target
        The target to tune for.
    threads : int
        Number of threads that compute a layer.
    device : str
        Name of the device, unless a measurement names another.
    source : str
        Where times come from: one of a record's sources.
    """

    def __init__(
        self, path: Path, target: Target, threads: int, device: str, source: str = "measured"
    ) -> None:
        self.log = TuningLog(path, target)
        self.trials = read_trials(path, target)
        self._target = target
        self._threads = threads
        self._device = device
        self._source = source
        self._best: dict[Workload, Record] = {}

    @property
    def known(self) -> Known:
        """Earlier trials on this device with this number of threads, which are not repeated."""
        return known_trials(
            [r for r in self.trials.records if (r.device, r.threads) == self._here], self._target
        )

    @property
    def earlier(self) -> dict[Target, Known]:
        """Trials on other devices or targets, and shipped ones; the cost model starts from them."""
        found: dict[Target, list[Record]] = defaultdict(list)
        found[self._target] = [
            r for r in self.trials.records if (r.device, r.threads) != self._here
        ]
        folders = dict.fromkeys([self.log.path.parent, shipped_log(self._target).parent])
        for path in [path for folder in folders for path in sorted(folder.glob(f"*{_TRIALS}"))]:
            other = PRESETS.get(path.name.removesuffix(_TRIALS))
            if other is None or path == self.trials.path:
                continue
            # The description of this machine is closer to the measured one than the preset's.
            other = self._target if other.preset == self._target.preset else other
            found[other] += _read(path, other).records
        return {target: known_trials(records, target) for target, records in found.items()}

    @property
    def _here(self) -> tuple[str, int]:
        return self._device, self._threads

    def prepare(self) -> None:
        """Check that the log and the trials can be written, before anything is measured.

        Raises
        ------
        UserError
            If they cannot.
        """
        self.log.prepare()
        self.trials.prepare()

    def add(self, workload: Workload, decision: Decision, measurement: Measurement) -> None:
        """Append a trial, also to the log if it is the layer's best of this run."""
        record = self.keep(workload, decision, measurement)
        best = self._best.get(workload)
        if best is None or record.microseconds < best.microseconds:
            self._best[workload] = record
            self.log.append(record)

    def keep(self, workload: Workload, decision: Decision, measurement: Measurement) -> Record:
        """Append a trial, and return its record."""
        record = self._record(workload, decision, measurement)
        self.trials.append(record)
        return record

    def settle(self, confirmed: dict[Workload, tuple[Decision, Measurement]] | None = None) -> None:
        """Reduce the log to one record per layer: the best of this run.

        Parameters
        ----------
        confirmed : dict, optional
            Best decisions, remeasured at the end, since the shortest of many times is partly luck.
        """
        for workload, (decision, measurement) in (confirmed or {}).items():
            self._best[workload] = self._record(workload, decision, measurement)
        if self._best:
            self.log.settle(self._best.values())

    def _record(self, workload: Workload, decision: Decision, measurement: Measurement) -> Record:
        return Record.of(
            workload,
            decision,
            self._target,
            microseconds=1e6 * measurement.seconds,
            spread=measurement.spread,
            threads=self._threads,
            device=measurement.device or self._device,
            source=self._source,
            board=measurement.board,
        )


def read_trials(path: Path, target: Target | None = None) -> TuningLog:
    """Read the trials of a log in the order measured; none if there is no file.

    Parameters
    ----------
    path : Path
        The log.
    target : Target, optional
        The target whose trials to read. Default: those of any preset.

    Raises
    ------
    UserError
        If they cannot be read.
    """
    return _read(path.with_name(path.name.removesuffix(".jsonl") + _TRIALS), target)


def _read(path: Path, target: Target | None) -> TuningLog:
    return TuningLog.read(path, target) if path.exists() else TuningLog(path, target)


def known_trials(records: Sequence[Record], target: Target) -> Known:
    """Return the decisions and times in records of a target, by layer."""
    found: dict[Workload, list[tuple[Decision, float]]] = defaultdict(list)
    for record in records:
        workload = parse(record.workload)
        decision = registry.decision(workload, record.decision, target)
        found[workload].append((decision, 1e-6 * record.microseconds))
    return found
