"""Reads what `mobilenet-tvm profile --json` and `benchmarks/peers.py --json` print."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mobilenet_tvm.compile.analysis.peak import Peak
from mobilenet_tvm.runtime.files import read_ordinary
from mobilenet_tvm.targets.errors import UserError

T = TypeVar("T")

_PROFILE = "'mobilenet-tvm profile --json'"
_PEERS = "'benchmarks/peers.py --json'"


@dataclass(frozen=True)
class ProfiledCall:
    """One call of a network, as `profile` printed it.

    Parameters
    ----------
    workload : str
        What it computes; the function's name if it has no schedule of its own.
    microseconds : float
        Median time in the network.
    flops, bytes : int
        What it computes and moves.
    decision : str
        The schedule's, as `name=value` words.
    source : str
        Of the decision: a tuning log's record, `default`, or empty where there is no decision.
    """

    workload: str
    microseconds: float
    flops: int
    bytes: int
    decision: str
    source: str


@dataclass(frozen=True)
class Profile:
    """The calls of a network in order, and the peak of the machine that ran it."""

    file: str
    threads: int
    peak: Peak
    calls: tuple[ProfiledCall, ...]


@dataclass(frozen=True)
class PeerRow:
    """Latencies of a network, by runtime.

    Parameters
    ----------
    model : str
        The network.
    threads : int
        How many threads each runtime had.
    milliseconds : mapping of str to (float, float)
        Shortest and median latency by runtime.
    missing : mapping of str to str
        Why a runtime was not measured, by runtime.
    """

    model: str
    threads: int
    milliseconds: Mapping[str, tuple[float, float]]
    missing: Mapping[str, str]


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises
    ------
    UserError
        If the file cannot be read, or is not a profile.
    """
    return _read(path, _profile, _PROFILE)


def read_peers(path: Path) -> tuple[PeerRow, ...]:
    """Read the latencies of several runtimes.

    Raises
    ------
    UserError
        If the file cannot be read, or has none.
    """
    return _read(path, _peers, _PEERS)


def _read(path: Path, make: Callable[[Any], T], made_by: str) -> T:
    try:
        return make(json.loads(read_ordinary(path)))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the output of {made_by}"
        ) from None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise UserError(f"{path}: is not the output of {made_by}; run that again") from None


def _profile(found: Any) -> Profile:
    integers = found["peak"].get("gops") or 0.0
    peak = Peak(
        _positive(found["peak"]["gflops"]),
        _positive(found["peak"]["gbytes"]),
        _positive(integers) if integers else 0.0,
    )
    calls = tuple(map(_call, found["calls"]))
    if not calls:
        raise ValueError("no calls")
    return Profile(_text(found["file"]), _count(found["threads"]), peak, calls)


def _call(row: Any) -> ProfiledCall:
    return ProfiledCall(
        workload=_text(row["workload"]),
        microseconds=_positive(row["microseconds"]),
        flops=_count(row["flops"], minimum=0),
        bytes=_count(row["bytes"], minimum=0),
        decision=_text(row["decision"]),
        source=_text(row["source"]),
    )


def _peers(found: Any) -> tuple[PeerRow, ...]:
    rows = tuple(map(_peer_row, found["rows"]))
    if not rows:
        raise ValueError("no rows")
    return rows


def _peer_row(row: Any) -> PeerRow:
    return PeerRow(
        model=_text(row["model"]),
        threads=_count(row["threads"]),
        milliseconds={
            _text(name): (_positive(times["least"]), _positive(times["median"]))
            for name, times in row["milliseconds"].items()
        },
        missing={_text(name): _text(reason) for name, reason in row["missing"].items()},
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _count(value: Any, minimum: int = 1) -> int:
    if type(value) is not int or not minimum <= value < 1e15:
        raise ValueError("not a count")
    return value


def _positive(value: Any) -> float:
    # JSON allows NaN and infinity, and true is an int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    if not (math.isfinite(value) and 0 < value < 1e12):
        raise ValueError("not a positive number")
    return float(value)
