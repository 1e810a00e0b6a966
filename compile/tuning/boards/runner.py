"""Measures candidates on boards that are somewhere else, on all that are free at the same time.

A thread per board feeds a process of its own that holds the session: so whatever a board
answers, or whether it does, ends at a time-out. A candidate has failed when it fails twice, on two
boards where there are; a board on which it alone fails is set aside and tried again later. Every
session begins with the same candidate, the yardstick: so a board that computes wrongly, or more
slowly than its siblings, is found before it measures anything else.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule

from mobilenet_tvm.compile.tuning.boards.client import Files
from mobilenet_tvm.compile.tuning.boards.farm import Farm, label, misfit, registered
from mobilenet_tvm.compile.tuning.boards.files import reference_path
from mobilenet_tvm.compile.tuning.boards.health import SLOW, Pool, State
from mobilenet_tvm.compile.tuning.boards.process import BoardProcess, Outcome
from mobilenet_tvm.compile.tuning.local.builder import Artifact, one_line
from mobilenet_tvm.compile.tuning.local.runner import TIMEOUT, runner_result
from mobilenet_tvm.compile.tuning.measure import Failure, place_of, tolerance
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.runtime.remote.errors import NoBoard
from mobilenet_tvm.targets.target import Target

#: Seconds that a board is kept while other runs may wait for it.
LEASE = 30.0
#: Seconds that a board without work is kept; a batch is built in less.
IDLE = 2.0
#: Seconds between two looks at the tracker, and before the next attempt to have a board.
_LOOK, _PAUSE = 2.0, 1.0
#: Seconds without any board after which that is said.
_WARN = 5.0


@dataclass(eq=False)
class _Job:
    """Candidates to be measured on one board, one after the other."""

    artifacts: Sequence[Artifact]
    files: Sequence[Files]
    #: One per candidate, unless no board was left.
    outcomes: Sequence[Outcome] = ()
    #: The boards on which it has failed, and how.
    failed: dict[str, str] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)


@derived_object
class _Future(meta_schedule.runner.PyRunnerFuture):  # type: ignore[misc]
    """A candidate that is measured some time."""

    def __init__(self, job: _Job, await_: Callable[[_Job], None]) -> None:
        super().__init__()
        self._job = job
        self._await = await_

    def done(self) -> bool:
        """Tell whether it is."""
        return self._job.ended.is_set()

    def result(self) -> meta_schedule.runner.RunnerResult:
        """Wait for it."""
        self._await(self._job)
        return runner_result(*self._job.outcomes or [Failure("lost", "no board is left")])


@derived_object
class BoardRunner(meta_schedule.runner.PyRunner):  # type: ignore[misc]
    """Measures batches of candidates while its caller builds more.

    Parameters
    ----------
    artifacts : dict of str to Artifact
        The builder's, with the files of their arguments.
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
        artifacts: dict[str, Artifact],
        farm: Farm,
        target: Target,
        threads: int,
        folder: Path,
        on_outcome: Callable[[Task, int, Outcome], None],
        say: Callable[[str], None],
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__()
        self._artifacts = artifacts
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
        self._yardstick: Files | None = None
        self._pool = Pool()
        self._trouble = ""
        #: When it was last seen that something can be measured, and whether the user knows.
        self._since, self._warned = time.monotonic(), False
        self._slots: list[tuple[BoardProcess, threading.Thread]] = []
        #: How long nothing was done but measure.
        self.seconds = 0.0
        #: Why no more can be measured; empty as long as it can.
        self.over = ""
        #: What a callback has raised.
        self.error: Exception | None = None
        self._have_threads(self._look())
        threading.Thread(target=self._keep, daemon=True).start()

    @property
    def boards(self) -> int:
        """The most boards that have been there at a time, as far as they may be used."""
        return len(self._slots)

    def run(
        self, runner_inputs: Sequence[meta_schedule.runner.RunnerInput]
    ) -> list[meta_schedule.runner.RunnerFuture]:
        """Hand over a batch; each candidate is a job of its own."""
        jobs = [self._submit([str(given.artifact_path)]) for given in runner_inputs]
        return [_Future(job, self._await) for job in jobs]

    @property
    def hungry(self) -> bool:
        """Whether it will soon have nothing left to measure, or takes whatever comes as it ends."""
        return bool(self.over) or len(self._waiting) < 2 * self.boards

    def wait(self) -> None:
        """Wait until another candidate is measured, or for a moment."""
        began = time.perf_counter()
        with self._changed:
            self._changed.wait(_PAUSE)
        self.seconds += time.perf_counter() - began

    def in_turns(self, groups: Iterable[Sequence[str]]) -> Iterator[Sequence[Outcome]]:
        """Measure libraries again, those of a group in turns on one board.

        Yields
        ------
        sequence of Measurement or Failure
            The outcomes of a group; empty if no board is left.
        """
        for job in [self._submit(group) for group in groups]:
            self._await(job)
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

    def _await(self, job: _Job) -> None:
        while not job.ended.is_set():
            self.wait()

    def _submit(self, paths: Sequence[str]) -> _Job:
        artifacts = [self._artifacts[path] for path in paths]
        job = _Job(artifacts, [self._files(*pair) for pair in zip(paths, artifacts, strict=True)])
        with self._changed:
            if self._yardstick is None and artifacts[0].number == 0:
                self._yardstick = job.files[0]
            if self.over:
                job.ended.set()
            else:
                self._waiting.append(job)
            self._changed.notify_all()
        return job

    def _files(self, path: str, artifact: Artifact) -> Files:
        workload = artifact.task.workload
        _, shape, _ = artifact.compiled.parameters[-1]
        return Files(
            Path(path),
            artifact.compiled.arguments,
            artifact.compiled.weights,
            reference_path(workload, self._folder),
            tolerance(workload, math.prod(shape)),
            self._threads,
            place_of(self._target),
        )

    # From here on, in the threads of the boards.

    def _serve(self, process: BoardProcess) -> None:
        try:
            self._serve_boards(process)
        except Exception as error:
            with self._changed:
                self.error = error
                self._give_up(one_line(error))

    def _serve_boards(self, process: BoardProcess) -> None:
        """Have some board as long as there is something to measure."""
        while self._await_work():
            board = self._open(process)
            if board is None:
                self._stop.wait(_PAUSE)
                continue
            fault = self._use(process, board)
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
        """Have a board and return its name, if there is one that may be used."""
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

    def _use(self, process: BoardProcess, board: str) -> str | None:
        """Measure on a board until its time is up, or return what is wrong with it."""
        until = time.monotonic() + LEASE
        fault = self._try_out(process, board)
        while fault is None and time.monotonic() < until:
            job = self._next(board)
            if job is None:
                break
            outcomes, fault = process.measure(job.files)
            if self._settle(job, board, outcomes) and fault is not None:
                return None
        return fault

    def _try_out(self, process: BoardProcess, name: str) -> str | None:
        """Measure the yardstick; return what is wrong with the board."""
        if self._yardstick is None:
            # It could not be built; the next layer's will do.
            return None
        (outcome,), fault = process.measure([self._yardstick])
        if isinstance(outcome, Failure):
            return fault or outcome.reason
        with self._changed:
            slowness = self._pool.slowness(name, outcome.seconds)
        return f"takes {slowness:.1f} times as long as others" if slowness > SLOW else None

    def _next(self, name: str) -> _Job | None:
        """Take a job for a board; one that has failed on it only if nobody else is there."""

        def suitable() -> _Job | None:
            alone = len(self._pool.names(State.MEASURING)) == 1
            return next((job for job in self._waiting if alone or name not in job.failed), None)

        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or suitable(), IDLE)
            job = None if self._stop.is_set() else suitable()
            if job is not None:
                self._waiting.remove(job)
            return job

    def _settle(self, job: _Job, name: str, outcomes: Sequence[Outcome]) -> bool:
        """Keep a job's outcomes, or have it tried once more; tell if the board is excused."""
        failure = next((outcome for outcome in outcomes if isinstance(outcome, Failure)), None)
        with self._changed:
            if self._stop.is_set():
                return True
            if failure is not None and not job.failed:
                job.failed[name] = failure.reason
                self._waiting.appendleft(job)
                self._changed.notify_all()
                return False
            if failure is not None:
                for other in (*job.failed, name):
                    self._pool.forgive(other)
            else:
                self._pool.works(name)
                for other, reason in job.failed.items():
                    if other != name and self._pool.state(other) is not State.ASIDE:
                        self._set_aside(other, f"{reason}, unlike on {name}")
            job.outcomes = outcomes
            try:
                if len(outcomes) == 1:
                    (artifact,), (outcome,) = job.artifacts, outcomes
                    self._on_outcome(artifact.task, artifact.number, outcome)
            finally:
                job.ended.set()
                self._changed.notify_all()
        return True

    def _set_aside(self, name: str, reason: str) -> None:
        pause = self._pool.fail(name, reason)
        self._say(f"board {name}: {reason}; set aside for {pause:.0f} s")

    # From here on, in the thread that keeps the others.

    def _keep(self) -> None:
        """Have a thread for each board, and see when no board is left."""
        while not self._stop.wait(_LOOK):
            boards = self._look()
            with self._changed:
                if not self._stop.is_set():
                    self._have_threads(boards)
                    self._judge(boards)

    def _have_threads(self, boards: Collection[str]) -> None:
        wanted = max(1, len(boards))
        while len(self._slots) < min(wanted, self._farm.limit or wanted):
            process = BoardProcess(self._farm, self._target.kind, self._timeout)
            thread = threading.Thread(target=self._serve, args=(process,), daemon=True)
            self._slots.append((process, thread))
            thread.start()

    def _look(self) -> dict[str, bool]:
        """Return the boards that there are, and whether somebody is known to use them."""
        address = self._farm.address
        if address.scheme != "tracker":
            return {str(address): False}
        try:
            boards = registered(address)
        except NoBoard as error:
            self._trouble = str(error)
            return {}
        return {label(board.info, board.address): bool(board.busy) for board in boards}

    def _judge(self, boards: dict[str, bool]) -> None:
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
        if waited > self._farm.patience or (boards and set(boards) <= set(unfit)):
            self._give_up(f"no board is left at {self._farm.address}: {reasons or 'none is free'}")
        elif waited >= _WARN and reasons and not self._warned:
            left = self._farm.patience - waited
            self._warned = True
            self._say(f"no board is left ({reasons}); waiting for up to {left:.0f} s")

    def _give_up(self, reason: str) -> None:
        """End the run; what is being measured is still kept."""
        self.over = reason
        for job in self._waiting:
            job.ended.set()
        self._waiting.clear()
        self._changed.notify_all()
