"""Measures candidates on all free boards at the same time, while the tuner builds more.

A thread per board feeds a process of its own that holds the session, so that whatever a board
answers, or does not, ends at a timeout. A candidate has failed when it fails twice, on two boards
where there are two; a board on which it alone fails is set aside and tried again later. Every
session begins with the same candidate, the reference, so that a board that computes wrong results,
or is slower than its siblings, is found before it measures anything else.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobilenet_tvm.compile.tuning.boards.client import Files
from mobilenet_tvm.compile.tuning.boards.farm import Farm, label, misfit, registered
from mobilenet_tvm.compile.tuning.boards.files import reference_path
from mobilenet_tvm.compile.tuning.boards.health import SLOW_RATIO, Pool, State
from mobilenet_tvm.compile.tuning.boards.process import BoardProcess
from mobilenet_tvm.compile.tuning.local.builder import Candidate
from mobilenet_tvm.compile.tuning.local.runner import TIMEOUT
from mobilenet_tvm.compile.tuning.measure import Failure, place_of, tolerance
from mobilenet_tvm.compile.tuning.task import OnOutcome, Outcome
from mobilenet_tvm.runtime.remote.errors import NoBoard
from mobilenet_tvm.targets.target import Target

#: Seconds that a board is kept while other runs may wait for it.
LEASE = 30.0
#: Seconds that a board without work is kept; a batch is built in less.
IDLE_TIMEOUT = 2.0
#: Seconds between two requests to the tracker for its boards.
_POLL_INTERVAL = 2.0
#: Seconds between two attempts to get a board.
_RETRY_INTERVAL = 1.0
#: Seconds without any board after which the user is told.
_WARN_AFTER = 5.0


@dataclass(eq=False)
class _Job:
    """Candidates to be measured on one board, one after the other."""

    candidates: Sequence[Candidate]
    files: Sequence[Files]
    #: Whether the callback gets the outcome.
    tell: bool
    #: One per candidate, unless no board was left.
    outcomes: Sequence[Outcome] = ()
    #: The boards on which it has failed, and how.
    failed: dict[str, str] = field(default_factory=dict)


class BoardRunner:
    """Measures candidates on boards while its caller goes on.

    Parameters
    ----------
    farm : Farm
        The boards.
    target : Target
        What the candidates are compiled for.
    threads : int
        How many share a layer.
    folder : Path
        Where the layers' right results are.
    on_outcome : callable
        Gets the task, the decision's number and the outcome as soon as it is there, from any
        thread, but one at a time.
    say : callable
        Gets a line about a board.
    timeout : float
        Seconds after which a candidate counts as hung.
    """

    def __init__(
        self,
        farm: Farm,
        target: Target,
        threads: int,
        folder: Path,
        on_outcome: OnOutcome,
        say: Callable[[str], None],
        timeout: float = TIMEOUT,
    ) -> None:
        self._farm = farm
        self._target = target
        self._threads = threads
        self._folder = folder
        self._on_outcome = on_outcome
        self._say = say
        self._timeout = timeout
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._waiting: deque[_Job] = deque()
        #: Those that wait, and those that are being measured.
        self._unfinished: set[_Job] = set()
        self._reference: Files | None = None
        self._pool = Pool()
        #: Why no board was to be had, as the tracker or the last board said.
        self._trouble = ""
        #: When something could last be measured, and whether the user knows that nothing can.
        self._since, self._warned = time.monotonic(), False
        self._slots: list[tuple[BoardProcess, threading.Thread]] = []
        #: What has ended a board's thread, such as an error of a callback.
        self._error: Exception | None = None
        #: How long the tuner did nothing but wait for measurements.
        self.seconds = 0.0
        #: Why no more can be measured; empty as long as it can.
        self.over = ""
        self._start_threads(self._list_boards())
        threading.Thread(target=self._supervise, daemon=True).start()

    @property
    def concurrency(self) -> int:
        """The most boards there have been at a time, as far as they may be used."""
        return len(self._slots)

    @property
    def wants_work(self) -> bool:
        """Whether boards will soon be idle; always so when the run is over."""
        return len(self._waiting) < 2 * self.concurrency

    def submit(self, candidates: Sequence[Candidate]) -> None:
        """Queue candidates; each is a job of its own."""
        for candidate in candidates:
            self._queue([candidate], tell=True)

    def unfinished(self) -> set[Candidate]:
        """Return the candidates that wait or are being measured.

        Raises
        ------
        Exception
            What a callback has raised in another thread.
        """
        return {candidate for job in self._unfinished_jobs() for candidate in job.candidates}

    def wait(self) -> None:
        """Wait until another candidate is measured, or for a moment."""
        began = time.perf_counter()
        with self._changed:
            self._changed.wait(_RETRY_INTERVAL)
        self.seconds += time.perf_counter() - began

    def in_turns(self, groups: Iterable[Sequence[Candidate]]) -> Iterator[Sequence[Outcome]]:
        """Measure candidates again, those of a group in turns on one board.

        Yields
        ------
        sequence of Measurement or Failure
            The outcomes of a group; empty if no board is left.
        """
        for job in [self._queue(group, tell=False) for group in groups]:
            while job in self._unfinished_jobs():
                self.wait()
            yield job.outcomes

    def close(self) -> None:
        """Give all boards back."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for process, _ in self._slots:
            process.kill()
        for _, thread in self._slots:
            thread.join()

    def _queue(self, candidates: Sequence[Candidate], *, tell: bool) -> _Job:
        job = _Job(candidates, [self._files(candidate) for candidate in candidates], tell)
        with self._changed:
            if self._reference is None and candidates[0].number == 0:
                self._reference = job.files[0]
            if not self.over:
                self._unfinished.add(job)
                self._waiting.append(job)
            self._changed.notify_all()
        return job

    def _unfinished_jobs(self) -> set[_Job]:
        with self._changed:
            if self._error is not None:
                raise self._error
            return set(self._unfinished)

    def _files(self, candidate: Candidate) -> Files:
        workload, compiled = candidate.task.workload, candidate.compiled
        _, shape, _ = compiled.parameters[-1]
        return Files(
            candidate.library,
            compiled.arguments,
            compiled.weights,
            reference_path(workload, self._folder),
            tolerance(workload, math.prod(shape)),
            self._threads,
            place_of(self._target),
        )

    # What follows runs in the threads of the boards.

    def _serve(self, process: BoardProcess) -> None:
        try:
            self._serve_boards(process)
        except Exception as error:
            with self._changed:
                self._error = error
                self._stop.set()
                self._changed.notify_all()

    def _serve_boards(self, process: BoardProcess) -> None:
        """Have some board as long as there is something to measure."""
        while self._await_work():
            board = self._open(process)
            if board is None:
                self._stop.wait(_RETRY_INTERVAL)
                continue
            fault = self._measure_on(board, process)
            with self._changed:
                self._since = time.monotonic()
                if fault is None:
                    self._pool.give_back(board)
                elif not self._stop.is_set():
                    self._set_aside(board, fault)
            process.close()

    def _await_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stop.is_set() or self.over)
            return not self._stop.is_set() and not self.over

    def _open(self, process: BoardProcess) -> str | None:
        """Get a board and return its name, if there is one that may be used."""
        try:
            info, address = process.open(LEASE)
        except NoBoard as error:
            self._trouble = str(error)
            return None
        board = label(info, address)
        unfit = misfit(info, self._target)
        with self._changed:
            if unfit and self._pool.state(board) is not State.UNFIT:
                self._pool.exclude(board, unfit)
                self._say(f"{unfit}; it is not used")
            faults = self._pool.faults(board)
            if self._pool.take(board):
                if faults:
                    self._say(f"board {board} is tried again")
                return board
        process.close()
        return None

    def _measure_on(self, board: str, process: BoardProcess) -> str | None:
        """Measure on a board until its lease ends, or return what is wrong with it."""
        until = time.monotonic() + LEASE
        fault = self._check_board(board, process)
        while fault is None and time.monotonic() < until:
            job = self._next(board)
            if job is None:
                break
            outcomes, fault = process.measure(job.files)
            if self._settle(job, board, outcomes) and fault is not None:
                return None
        return fault

    def _check_board(self, name: str, process: BoardProcess) -> str | None:
        """Measure the reference candidate; return what is wrong with the board."""
        if self._reference is None:
            # It could not be built; the next layer's will do.
            return None
        (outcome,), fault = process.measure([self._reference])
        if isinstance(outcome, Failure):
            return fault or outcome.reason
        with self._changed:
            slowness = self._pool.slowness(name, outcome.seconds)
        return f"takes {slowness:.1f} times as long as others" if slowness > SLOW_RATIO else None

    def _next(self, name: str) -> _Job | None:
        """Take a job for a board; one that has failed on it only if no other board is there."""

        def suitable() -> _Job | None:
            alone = len(self._pool.names(State.MEASURING)) == 1
            return next((job for job in self._waiting if alone or name not in job.failed), None)

        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or suitable(), IDLE_TIMEOUT)
            job = None if self._stop.is_set() else suitable()
            if job is not None:
                self._waiting.remove(job)
            return job

    def _settle(self, job: _Job, name: str, outcomes: Sequence[Outcome]) -> bool:
        """Keep a job's outcomes, or have it tried once more; tell if the board is not at fault."""
        failure = next((outcome for outcome in outcomes if isinstance(outcome, Failure)), None)
        with self._changed:
            if self._stop.is_set():
                return True
            if failure is not None and not job.failed:
                job.failed[name] = failure.reason
                if self.over:
                    self._unfinished.remove(job)
                else:
                    self._waiting.appendleft(job)
                self._changed.notify_all()
                return False
            if failure is not None:
                for other in (*job.failed, name):
                    self._pool.reinstate(other)
            else:
                self._pool.succeed(name)
                for other, reason in job.failed.items():
                    if other != name and self._pool.state(other) is not State.ASIDE:
                        self._set_aside(other, f"{reason}, unlike on {name}")
            job.outcomes = outcomes
            if job.tell:
                for candidate, outcome in zip(job.candidates, outcomes, strict=True):
                    self._on_outcome(candidate.task, candidate.number, outcome)
            # Not if the callback raises: its error is to be seen before the batch looks finished.
            self._unfinished.remove(job)
            self._changed.notify_all()
        return True

    def _set_aside(self, name: str, reason: str) -> None:
        pause = self._pool.fail(name, reason)
        self._say(f"board {name}: {reason}; set aside for {pause:.0f} s")

    # What follows runs in the thread that supervises the others.

    def _supervise(self) -> None:
        """Start a thread for each new board, and end the run when no board is left."""
        while not self._stop.wait(_POLL_INTERVAL):
            boards = self._list_boards()
            with self._changed:
                if not self._stop.is_set():
                    self._start_threads(boards)
                    self._check_progress(boards)

    def _start_threads(self, boards: Collection[str]) -> None:
        wanted = max(1, len(boards))
        while len(self._slots) < min(wanted, self._farm.limit or wanted):
            process = BoardProcess(self._farm, self._target.kind, self._timeout)
            thread = threading.Thread(target=self._serve, args=(process,), daemon=True)
            self._slots.append((process, thread))
            thread.start()

    def _list_boards(self) -> dict[str, bool]:
        """Return the boards that there are, and whether each is known to be in use."""
        address = self._farm.address
        if address.scheme != "tracker":
            return {str(address): False}
        try:
            boards = registered(address)
        except NoBoard as error:
            self._trouble = str(error)
            return {}
        return {label(board.info, board.address): bool(board.busy) for board in boards}

    def _check_progress(self, boards: dict[str, bool]) -> None:
        """End the run where nothing was measured for too long and nothing will be."""
        now = time.monotonic()
        suspects = self._pool.suspects
        elsewhere = any(busy and name not in suspects for name, busy in boards.items())
        if not self._waiting or self._pool.names(State.MEASURING) or elsewhere:
            self._since, self._warned = now, False
            return
        reasons = "; ".join(self._pool.reasons()) or self._trouble
        unfit = self._pool.names(State.UNFIT)
        waited = now - self._since
        if waited > self._farm.wait_timeout or (boards and set(boards) <= set(unfit)):
            self.over = f"no board is left at {self._farm.address}: {reasons or 'none is free'}"
            self._unfinished.difference_update(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        elif waited >= _WARN_AFTER and reasons and not self._warned:
            left = self._farm.wait_timeout - waited
            self._warned = True
            self._say(f"no board is left ({reasons}); waiting for up to {left:.0f} s")
