"""Judges candidates in the emulator instead of measuring them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mobilenet_tvm.compile.tuning.emulated.counts import count
from mobilenet_tvm.compile.tuning.emulated.emulator import Emulator, EmulatorError
from mobilenet_tvm.compile.tuning.emulated.judge import seconds
from mobilenet_tvm.compile.tuning.emulated.program import arguments, restored
from mobilenet_tvm.compile.tuning.local.builder import Candidate
from mobilenet_tvm.compile.tuning.measure import Failure, Measurement
from mobilenet_tvm.compile.tuning.task import OnOutcome, Outcome
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.target import Target

#: A candidate whose emulation takes longer has failed, in seconds; most take less than one.
_TIMEOUT = 120.0


class EmulatedRunner:
    """Judges candidates as they are submitted, on all of this machine's cores.

    Parameters
    ----------
    target : Target
        The emulated machine.
    on_outcome : callable
        Gets the task, the decision's number and the outcome.
    """

    wants_work = True
    over = ""

    def __init__(self, target: Target, on_outcome: OnOutcome) -> None:
        self._emulator = Emulator()
        self._target = target
        self._on_outcome = on_outcome
        self._pool = ThreadPoolExecutor(core_count())
        #: How long emulation took.
        self.seconds = 0.0

    @property
    def concurrency(self) -> int:
        """How many candidates are emulated at a time."""
        return core_count()

    def submit(self, candidates: Sequence[Candidate]) -> None:
        """Judge candidates."""
        start = time.perf_counter()
        for candidate, outcome in zip(
            candidates, self._pool.map(self._judge, candidates), strict=True
        ):
            self._on_outcome(candidate.task, candidate.number, outcome)
        self.seconds += time.perf_counter() - start

    def unfinished(self) -> frozenset[Candidate]:
        """Return nothing: what was submitted is judged."""
        return frozenset()

    def wait(self) -> None:
        """Return at once, as there is nothing to wait for."""

    def in_turns(self, groups: Iterable[Sequence[Candidate]]) -> Iterator[Sequence[Outcome]]:
        """Yield nothing for each group: another count would be the same."""
        for _ in groups:
            yield ()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _judge(self, candidate: Candidate) -> Outcome:
        command: list[str | Path] = [candidate.library, *arguments(candidate.compiled.parameters)]
        with tempfile.TemporaryDirectory() as folder:
            try:
                sections = self._emulator.run(command, self._target, Path(folder), timeout=_TIMEOUT)
            except EmulatorError as error:
                return Failure("error", str(error))
        blocks = restored(sections[1], candidate.library)
        found = seconds(count(blocks, self._target.preset), self._target)
        return Measurement(found, found, 0.0, 1)
