"""Progress of tuning: an event per candidate, and a printer of events."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from mobilenet_tvm.compile.analysis.peak import Peak
from mobilenet_tvm.compile.tuning.measure import Failure
from mobilenet_tvm.compile.tuning.task import Outcome
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.printable import printable


@dataclass(frozen=True)
class Event:
    """One candidate was tried.

    Parameters
    ----------
    workload : Workload
        The layer.
    decision : Decision
        The candidate.
    outcome : Measurement or Failure
        The result of the trial.
    best : float or None
        The layer's shortest time so far, in seconds.
    layer, layers : int
        Index of the layer, from 1, and number of layers.
    trials, max_trials : int
        Number of candidates tried so far, and the maximum.
    seconds : float
        Time since the start.
    seconds_left : float
        Upper bound on the remaining time, at the current rate.
    total : float or None
        The best times of all layers, weighted by how often each is called, in seconds; None until
        all have one.
    """

    workload: Workload
    decision: Decision
    outcome: Outcome
    best: float | None
    layer: int
    layers: int
    trials: int
    max_trials: int
    seconds: float
    seconds_left: float
    total: float | None


#: Longer names of layers are truncated, so that a line fits a terminal.
_MAX_NAME = 44


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."


def line_printer(
    stream: TextIO, peak: Peak | None = None, every: float = 2.0
) -> Callable[[Event], None]:
    """Return a function that prints every failure, and other events at intervals.

    Parameters
    ----------
    stream : file
        A terminal or a log.
    peak : Peak, optional
        Peak of the machine, to print the share of it that is reached.
    every : float
        Seconds between lines of successful trials.
    """
    last = float("-inf")

    def show(event: Event) -> None:
        nonlocal last
        failed = isinstance(event.outcome, Failure)
        now = time.monotonic()
        if not failed and now - last < every and event.trials < event.max_trials:
            return
        last = now
        text = f"{event.trials}/{event.max_trials} trials, {event.seconds_left:.0f} s left"
        text += f"; all layers {1e3 * event.total:.3f} ms" if event.total else ""
        text += f"; {_short(str(event.workload))} ({event.layer}/{event.layers}): "
        if isinstance(event.outcome, Failure):
            text += f"{event.outcome.kind}: {event.outcome.reason} ({event.decision})"
        elif event.best:
            gflops = 1e-9 * event.workload.flops / event.best
            text += f"best {1e6 * event.best:.1f} us, {gflops:.1f} GFLOP/s"
            text += f", {gflops / peak.of(event.workload):.0%} of peak" if peak else ""
            text += f"; on {event.outcome.board}" if event.outcome.board else ""
        stream.write(f"{printable(text)}\n")
        stream.flush()

    return show
