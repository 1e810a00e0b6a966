"""A record of a tuning log: one decision, how long it took, and its line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload, parse
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

#: The format of a line; it goes up when an older version would misread it.
FORMAT = 1

#: Where a record's time comes from: a device, or an estimate from what an emulated core executes.
SOURCES = ("measured", "emulated")

_DATE = "%Y-%m-%dT%H:%M:%SZ"

#: Why a line is skipped: a killed writer left half of it, or it may be of use to somebody else.
TORN, NEWER, OTHER_TARGET = "torn", "newer format", "another target"
#: Or this project would not write such a line.
FOREIGN = "foreign fields"


@dataclass(frozen=True)
class Record:
    """How long one decision takes for one workload.

    Parameters
    ----------
    workload : str
        Its text: operator, shapes, epilogue.
    decision : mapping of str to int, bool or str
        By name, as in `vars` of a decision.
    microseconds : float
        First decile of the runs: other processes only ever add time.
    spread : float
        How much longer the median run took, as a share of `microseconds`.
    threads : int
        Threads that shared the layer.
    target : str
        A preset's name.
    source : str
        One of `SOURCES`.
    device : str
        The CPU's model or the board's name; for an estimate, the emulated core.
    versions : mapping of str to str
        Of `mobilenet-tvm` and `apache-tvm`.
    date : str
        UTC, as in `2026-01-31T12:00:00Z`.
    dtype, layout : str
        Of the data: `float32` or `float16`, and `NHWC`.
    board : str
        Which of several such boards it was; may be empty.
    """

    workload: str
    decision: Mapping[str, Any]
    microseconds: float
    spread: float
    threads: int
    target: str
    source: str
    device: str
    versions: Mapping[str, str]
    date: str
    dtype: str = "float32"
    layout: str = "NHWC"
    board: str = ""

    @classmethod
    def of(
        cls,
        workload: Workload,
        decision: Decision,
        target: Target,
        *,
        microseconds: float,
        spread: float,
        threads: int,
        device: str,
        source: str = "measured",
        board: str = "",
    ) -> Record:
        """Make the record of a new measurement; the parameters are those of the class."""
        return cls(
            workload=str(workload),
            decision=dict(vars(decision)),
            microseconds=round(microseconds, 2),
            spread=round(spread, 3),
            dtype=workload.dtype,
            threads=threads,
            target=target.preset,
            source=source,
            device=device,
            board=board,
            versions={name: version(name) for name in ("mobilenet-tvm", "apache-tvm")},
            date=datetime.now(timezone.utc).strftime(_DATE),
        )

    @property
    def operator(self) -> str:
        """The operator's name."""
        return self.workload.partition(" ")[0]

    @property
    def gflops(self) -> float:
        """Floating-point operations in a nanosecond."""
        return 1e-3 * parse(self.workload).flops / self.microseconds

    def to_row(self) -> dict[str, Any]:
        """Return the record as JSON types, in the order of a line."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {"format": FORMAT} | {n: v for n, v in fields.items() if v or n not in _OPTIONAL}

    def to_json(self) -> str:
        """Return the record as a line, without a line end."""
        return json.dumps(self.to_row())


class UnusableLineError(ValueError):
    """A line that this version cannot use.

    Parameters
    ----------
    reason : str
        A category in a word or two, by which such lines are counted.
    detail : str
        What is wrong with this line.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def read_record(line: str, target: Target | None = None) -> Record:
    """Read a line of a log and check everything in it.

    Parameters
    ----------
    line : str
        Without a line end.
    target : Target, optional
        The record has to be for this target. Default: any preset.

    Returns
    -------
    Record
        Its workload exists, and its decision is valid for that workload and target.

    Raises
    ------
    UnusableLineError
        If this version cannot use the line.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UnusableLineError(TORN if line.startswith("{") else "not JSON") from None
    record = _to_record(row)
    machine = PRESETS.get(record.target) if target is None else target
    if machine is None or record.target != machine.preset:
        raise UnusableLineError(OTHER_TARGET, repr(record.target))
    try:
        workload = parse(record.workload)
    except ValueError as error:
        raise UnusableLineError("unknown workload", str(error)) from None
    if record.dtype != workload.dtype:
        raise UnusableLineError(FOREIGN, "dtype is not the workload's")
    try:
        registry.decision(workload, record.decision, machine)
    except ValueError as error:
        raise UnusableLineError("invalid decision", str(error)) from None
    return record


def _to_record(row: Any) -> Record:
    """Make a record of a line's JSON; types are checked, their meaning is not."""
    made_as = row.get("format") if isinstance(row, dict) else None
    if type(made_as) is not int or made_as < 1:
        raise UnusableLineError(FOREIGN, "not a record")
    if made_as > FORMAT:
        raise UnusableLineError(NEWER, f"{made_as}; this version reads up to {FORMAT}")
    values = {name: value for name, value in row.items() if name != "format"}
    for name in values:
        if name not in _FIELDS:
            raise UnusableLineError(FOREIGN, f"{name!r} is unknown")
    for name, right in _FIELDS.items():
        if name in _OPTIONAL and name not in values:
            continue
        if name not in values or not right(values[name]):
            raise UnusableLineError(
                FOREIGN, f"{name} is {'wrong' if name in values else 'missing'}"
            )
    return Record(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value != ""


def _is_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, [*value.keys(), *value.values()]))


def _is_number(value: Any, minimum: float) -> bool:
    # JSON allows NaN and infinity, and true is an int.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(minimum <= value < 1e12)


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.strptime(value, _DATE).strftime(_DATE) == value
    except ValueError:
        return False


#: The fields of a line after `format`, in their order, and the check of each value.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "target": _is_text,
    "workload": _is_text,
    "dtype": lambda value: value in ("float32", "float16", "int8", "int16"),
    "layout": lambda value: value == "NHWC",
    "decision": lambda value: isinstance(value, dict),
    "microseconds": lambda value: _is_number(value, 0.01),
    "spread": lambda value: _is_number(value, 0),
    "threads": lambda value: type(value) is int and value >= 1,
    "source": SOURCES.__contains__,
    "device": _is_text,
    "board": _is_text,
    "versions": _is_versions,
    "date": _is_date,
}

#: Fields that may be missing.
_OPTIONAL = {"board"}
