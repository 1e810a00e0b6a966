"""Tuning logs: one decision per line of JSON, with its time, and which of them is the best.

The log of a target is `<preset>.jsonl`. Nothing in a log is trusted: a line that this version
cannot use is skipped and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenet_tvm.compile.logs.locked_file import (
    append_line,
    check_writable,
    locked,
    replace_text,
)
from mobilenet_tvm.compile.logs.record import (
    NEWER,
    OTHER_TARGET,
    TORN,
    Record,
    UnusableLineError,
    read_record,
)
from mobilenet_tvm.runtime.files import read_ordinary
from mobilenet_tvm.runtime.folders import data_folder
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

__all__ = ["Record", "SkippedLine", "TuningLog", "in_words", "shipped_log", "user_log"]


#: Reasons of lines that stay in the file: somebody else may use them.
_KEPT = (NEWER, OTHER_TARGET)


@dataclass(frozen=True)
class SkippedLine:
    """A line that is not used.

    Parameters
    ----------
    number : int
        From 1.
    reason : str
        A category in a word or two, by which skipped lines are counted.
    detail : str
        What is wrong with this line; may be empty.
    text : str
        The line itself.
    """

    number: int
    reason: str
    detail: str
    text: str


class TuningLog:
    """The records of one file.

    Of two records of a workload, a measured one beats an emulated one. Times are comparable only on
    the same device with the same number of threads: there the shorter one wins. Between devices or
    numbers of threads, the later record wins.

    Parameters
    ----------
    path : str or Path
        The file, which need not exist.
    target : Target, optional
        Only records of this target are used. Default: those of any preset.
    """

    def __init__(self, path: str | Path, target: Target | None = None) -> None:
        self.path = Path(path)
        self.target = target
        #: In the order of the file.
        self.records: list[Record] = []
        self.skipped: list[SkippedLine] = []

    @classmethod
    def read(cls, path: str | Path, target: Target | None = None) -> TuningLog:
        """Read a file; the parameters are those of the class.

        Raises
        ------
        UserError
            If there is no such file, or it cannot be read.
        """
        log = cls(path, target)
        try:
            log._load()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; give a tuning log") from None
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); give a tuning log"
            ) from None
        return log

    @property
    def skipped_by_reason(self) -> dict[str, int]:
        """How many lines are not used, by reason."""
        return dict(Counter(line.reason for line in self.skipped))

    def best(self, workload: Workload | str) -> Record | None:
        """Return the best record of a workload, if there is one; the log has one target."""
        text = str(workload)
        return _latest(record for record in self.records if record.workload == text).get(text)

    def bests(self) -> dict[str, Record]:
        """Return the best record of each workload, by its text; the log has one target."""
        return _latest(self.records)

    def prepare(self) -> None:
        """Check that the file can be written, before the work on its records starts.

        Its folder is made where it is missing.

        Raises
        ------
        UserError
            If it cannot.
        """
        self._write(check_writable)

    def append(self, record: Record) -> None:
        """Append a record to the file at once; other processes may do so at the same time.

        Parameters
        ----------
        record : Record
            Of the log's target.

        Raises
        ------
        UserError
            If it cannot be written, as on a full disk; the file then stays as it was.
        ValueError
            If `read` would skip it.
        """
        line = record.to_json()
        read_record(line, self.target)
        self._write(lambda path: append_line(path, line))
        self.records.append(record)

    def merge(self, *others: TuningLog) -> Counter[str]:
        """Merge other logs' records into the file, sort it, and drop what is beaten or damaged.

        Lines for another target or of a newer format stay. Records that other processes have
        written in the meantime are merged as well.

        Parameters
        ----------
        *others : TuningLog
            The logs to merge.

        Returns
        -------
        Counter of str
            How many lines were dropped, by reason: `beaten`, or why they were skipped.

        Raises
        ------
        UserError
            If the file cannot be written, or is not a tuning log; it then stays as it was.
        """
        return self._rewrite(
            lambda records: [*records, *(r for log in others for r in log.records)]
        )

    def prune(self) -> Counter[str]:
        """Sort the file and drop what is beaten or damaged; see `merge`."""
        return self.merge()

    def settle(self, records: Iterable[Record]) -> None:
        """Replace all records of the same layers, devices and numbers of threads.

        Parameters
        ----------
        records : iterable of Record
            Of a later measurement, which counts even where the time is longer.

        Raises
        ------
        UserError
            As `merge` does.
        """
        new = list(records)
        replaced = {_contest(record) for record in new}
        self._rewrite(lambda old: [*(r for r in old if _contest(r) not in replaced), *new])

    def _rewrite(self, choose: Callable[[list[Record]], list[Record]]) -> Counter[str]:
        """Replace the file's records; return how many lines were dropped, by reason."""
        dropped: Counter[str] = Counter()

        def rewrite(path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.parent):
                if self.path.exists():
                    self._load()
                kept = [line for line in self.skipped if line.reason in _KEPT]
                lost = [line for line in self.skipped if line.reason not in _KEPT]
                dropped.update(line.reason for line in lost)
                if set(dropped) - {TORN} and not self.records:
                    raise UserError(f"{self.path}: holds no record; is it a tuning log?")
                records = choose(self.records)
                best = sorted(_unbeaten(records), key=_order)
                # Dropping a duplicate of a row loses nothing.
                dropped["beaten"] = len({r.to_json() for r in records}) - len(best)
                lines = [*(r.to_json() for r in best), *(line.text for line in kept)]
                replace_text(path, "".join(f"{line}\n" for line in lines))
                self.records, self.skipped = best, kept

        self._write(rewrite)
        return +dropped

    def _load(self) -> None:
        self.records, self.skipped = [], []
        text = read_ordinary(self.path).decode("utf-8", errors="replace")
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                self.records.append(read_record(line, self.target))
            except UnusableLineError as error:
                self.skipped.append(SkippedLine(number, error.reason, error.detail, line))

    def _write(self, action: Callable[[Path], None]) -> None:
        try:
            # Where the path is a link, all writers lock the folder of the file itself, and the link
            # stays.
            action(Path(os.path.realpath(self.path)))
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}) and stays as it was; make room "
                "or name another file"
            ) from None


def in_words(counts: Mapping[str, int]) -> str:
    """Return counts by reason as text: `torn: 2, newer format: 1`."""
    return ", ".join(f"{reason}: {count}" for reason, count in counts.items())


def user_log(target: Target) -> Path:
    """Return the path of the user's own log for a target, which need not exist.

    Raises
    ------
    UserError
        If the user has no home folder.
    """
    return data_folder() / "tuning_logs" / f"{target.preset}.jsonl"


def shipped_log(target: Target) -> Path:
    """Return the path of the log that ships for a target, which need not exist."""
    return Path(__file__).parents[2] / "tuning_logs" / f"{target.preset}.jsonl"


def _unbeaten(records: Iterable[Record]) -> list[Record]:
    """Return the records that no other record beats; see `TuningLog` for the rule."""
    records = list(records)
    measured = {_layer(record) for record in records if record.source == "measured"}
    best: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if record.source == "emulated" and _layer(record) in measured:
            continue
        contest = _contest(record)
        if contest not in best or _beats(record, best[contest]):
            best[contest] = record
    return list(best.values())


def _latest(records: Iterable[Record]) -> dict[str, Record]:
    """Return the latest record of each workload that no other record beats."""
    latest: dict[str, Record] = {}
    for record in _unbeaten(records):
        other = latest.get(record.workload)
        if other is None or (other.date, other.to_json()) < (record.date, record.to_json()):
            latest[record.workload] = record
    return latest


def _layer(record: Record) -> tuple[str, ...]:
    return record.target, record.workload, record.dtype, record.layout


def _contest(record: Record) -> tuple[Any, ...]:
    """Return what two records must share for their times to be comparable."""
    return (*_layer(record), record.device, record.threads)


def _beats(one: Record, other: Record) -> bool:
    if one.microseconds != other.microseconds:
        return one.microseconds < other.microseconds
    # The text breaks ties, so that the order of the records does not matter.
    return one.to_json() < other.to_json()


def _order(record: Record) -> tuple[Any, ...]:
    return record.operator, record.workload, record.threads, record.source, record.to_json()
