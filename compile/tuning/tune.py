"""Tunes layers: from workloads and a number of trials to the best decision of each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mobilenet_tvm.compile.tuning.boards.farm import Farm
from mobilenet_tvm.compile.tuning.boards.files import compile_with_arguments
from mobilenet_tvm.compile.tuning.boards.runner import BoardRunner
from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.emulated.program import compile_program
from mobilenet_tvm.compile.tuning.emulated.runner import EmulatedRunner
from mobilenet_tvm.compile.tuning.local.builder import (
    Build,
    Builder,
    Candidate,
    Compile,
    compile_candidate,
)
from mobilenet_tvm.compile.tuning.local.runner import TIMEOUT, LocalRunner, require_native
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.prior import Known
from mobilenet_tvm.compile.tuning.progress import Event
from mobilenet_tvm.compile.tuning.scheduler import Runner, run_trials
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Outcome, Task
from mobilenet_tvm.runtime.scratch import scratch_folder
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

#: Gets each measured candidate, as soon as it is measured.
OnResult = Callable[[Workload, Decision, Measurement], None]

#: Seconds for a candidate where nothing is known of the machine.
_SECONDS_PER_TRIAL = 0.2


@dataclass(frozen=True)
class Plan:
    """What would be tuned.

    Parameters
    ----------
    workload : Workload
        A layer.
    count : int
        How often it is called.
    decisions : int
        The size of its space.
    known : int
        How many of them are known.
    """

    workload: Workload
    count: int
    decisions: int
    known: int


@dataclass(frozen=True)
class Tuned:
    """What tuning has found.

    Parameters
    ----------
    tasks : list of Task
        One per layer.
    seconds : float
        How long it took.
    build, measure : float
        Seconds of it in which candidates were built and measured; the rest is the search. Boards
        measure while others are built: there it is the time of waiting for them.
    over : str
        Why it ended too early; empty where it did not.
    """

    tasks: list[Task]
    seconds: float
    build: float
    measure: float
    over: str = ""

    @property
    def trials(self) -> int:
        """How many candidates were tried."""
        return sum(len(task.outcomes) for task in self.tasks)

    @property
    def boards(self) -> Counter[str]:
        """How many candidates each board has measured; empty where this machine has."""
        outcomes = [outcome for task in self.tasks for outcome in task.outcomes.values()]
        return Counter(o.board for o in outcomes if isinstance(o, Measurement) and o.board)

    @property
    def default_total(self) -> float:
        """Seconds of all calls of all layers by default, as far as they were measured."""
        return sum(task.count * task.default.seconds for task in self.tasks if task.default)

    @property
    def best_total(self) -> float:
        """The same with the best decisions."""
        return sum(t.count * t.times[t.best].seconds for t in self.tasks if t.default)

    @property
    def search(self) -> float:
        """Seconds that went into neither building nor measuring."""
        return self.seconds - self.build - self.measure


def plan(layers: Mapping[Workload, int], target: Target, known: Known | None = None) -> list[Plan]:
    """Tell what `tune` would do, without doing it; parameters as there."""
    return [
        Plan(task.workload, task.count, len(task.space.decisions), len(task.known))
        for task in _tasks(layers, target, known or {})
    ]


def seconds_needed(plans: Sequence[Plan], trials: int, time_limit: float | None = None) -> float:
    """Estimate how long tuning takes at most, in seconds."""
    possible = min(trials, sum(plan.decisions - plan.known for plan in plans))
    return min(possible * _SECONDS_PER_TRIAL, time_limit or float("inf"))


def tune(
    layers: Mapping[Workload, int],
    target: Target,
    *,
    trials: int = 500,
    time_limit: float | None = None,
    threads: int = 1,
    seed: int = 0,
    known: Known | None = None,
    earlier: Mapping[Target, Known] | None = None,
    on_result: OnResult | None = None,
    on_event: Callable[[Event], None] | None = None,
    build: Build = registry.build,
    timeout: float = TIMEOUT,
    farm: Farm | None = None,
    emulated: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Find a good decision for each layer by measuring, here or on boards, or by emulation.

    Parameters
    ----------
    layers : mapping of Workload to int
        The layers, and how often each is called.
    target : Target
        The machine to compile for; this one must be able to run it.
    trials : int
        How many candidates are measured.
    time_limit : float, optional
        No batch starts after so many seconds.
    threads : int
        How many threads share a layer.
    seed : int
        The same seed and times give the same candidates in the same order.
    known : mapping, optional
        Earlier measurements on this machine: not repeated, but learnt from.
    earlier : mapping, optional
        Measurements on other machines, for other targets or layers, which are only learnt from.
    on_result : callable, optional
        Gets each measured candidate as soon as it is measured, so that an interrupted run
        loses nothing. At the end it gets, for layers that have gained, the default decision and
        the best once more, measured in turns: these times are the last word.
    on_event : callable, optional
        Gets each candidate, failed ones too.
    build : callable
        Makes a decision's function.
    timeout : float
        Seconds after which a running candidate counts as hung.
    farm : Farm, optional
        Boards to measure on. Default: this machine.
    emulated : bool
        Whether to estimate times from what an emulated core executes instead; the emulator is set
        up.
    say : callable, optional
        Gets a line when a board fails, is slow, or comes back.

    Returns
    -------
    Tuned
        The best decision of each layer; the default one unless another is faster.

    Raises
    ------
    UserError
        If this machine is to run the target's code and cannot.
    KeyboardInterrupt
        If interrupted; `on_result` has had what was measured.
    """
    if farm is None and not emulated:
        require_native(target)
    run = _Run(_tasks(layers, target, known or {}), trials, time_limit, on_result, on_event)
    model = CostModel(seed, earlier)
    for task in run.tasks:
        model.learn(task.space, task.known)
    with scratch_folder("mobilenet-tvm-of-tuning-") as folder:
        compile_: Compile
        runner: Runner
        if emulated:
            compile_, runner = compile_program, EmulatedRunner(target, run.tried)
        elif farm is None:
            compile_ = compile_candidate
            runner = LocalRunner(target, threads, folder, run.tried, timeout)
        else:
            compile_ = compile_with_arguments
            runner = BoardRunner(farm, target, threads, folder, run.tried, say, timeout)
        builder = Builder(build, folder, run.tried, compile_)

        def left() -> int:
            return 0 if runner.over else run.left()

        try:
            run_trials(run.tasks, model, builder.build, runner, trials=trials, left=left, seed=seed)
            _confirm(run, builder.built, runner)
        finally:
            builder.close()
            runner.close()
    return Tuned(run.tasks, run.elapsed, builder.seconds, runner.seconds, runner.over)


class _Run:
    """What one call of `tune` knows so far."""

    def __init__(
        self,
        tasks: list[Task],
        trials: int,
        time_limit: float | None,
        on_result: OnResult | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.tasks = tasks
        self.trials = trials
        self._limit = time_limit or float("inf")
        self._on_result = on_result
        self._on_event = on_event
        self._start = time.perf_counter()
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def left(self) -> int:
        """Return how many more candidates may be chosen; none once the time is up."""
        chosen = sum(task.chosen for task in self.tasks)
        return max(0, self.trials - chosen) if self.elapsed < self._limit else 0

    def tried(self, task: Task, number: int, outcome: Outcome) -> None:
        """Keep a candidate's outcome and pass it on: the one path of results.

        Builds fail in one thread while boards measure in others.
        """
        decision = task.space.decisions[number]
        with self._lock:
            # A new one, so that other threads can go over the old one meanwhile.
            task.outcomes = task.outcomes | {number: outcome}
            if isinstance(outcome, Measurement) and self._on_result:
                self._on_result(task.workload, decision, outcome)
            if self._on_event:
                self._on_event(self._event(task, decision, outcome))

    def confirmed(self, task: Task, number: int, measurement: Measurement) -> None:
        """Keep a time that was measured again."""
        task.confirmed[number] = measurement
        if self._on_result:
            self._on_result(task.workload, task.space.decisions[number], measurement)

    def _event(self, task: Task, decision: Decision, outcome: Outcome) -> Event:
        done = sum(len(other.outcomes) for other in self.tasks)
        times = [other.times for other in self.tasks]
        total = None
        if all(times):
            total = sum(t.count * t.times[t.best].seconds for t in self.tasks)
        left = self.elapsed / done * max(0, self.trials - done)
        return Event(
            workload=task.workload,
            decision=decision,
            outcome=outcome,
            best=task.times[task.best].seconds if task.times else None,
            layer=self.tasks.index(task) + 1,
            layers=len(self.tasks),
            trials=done,
            max_trials=self.trials,
            seconds=self.elapsed,
            seconds_left=min(left, max(0.0, self._limit - self.elapsed)),
            total=total,
        )


def _tasks(layers: Mapping[Workload, int], target: Target, known: Known) -> list[Task]:
    """Return the layers as tasks, those with most work first, for runs of few trials."""
    tasks = []
    for workload, count in layers.items():
        measured = known.get(workload, ())
        space = Space(workload, target, [decision for decision, _ in measured])
        tasks.append(Task(space, count, by_number(space, measured)))
    return sorted(tasks, key=lambda task: -task.count * task.workload.flops)


def by_number(space: Space, measured: Sequence[tuple[Decision, float]]) -> dict[int, float]:
    """Return the shortest time of each decision."""
    seconds: dict[int, float] = {}
    for decision, time_ in sorted(measured, key=lambda pair: -pair[1]):
        seconds[space.decisions.index(decision)] = time_
    return seconds


def _confirm(run: _Run, built: Mapping[tuple[str, int], Candidate], runner: Runner) -> None:
    """Measure the best of each layer again, in turns with the default.

    The shortest of many times is partly luck, and a machine's speed drifts.
    """
    gained = [task for task in run.tasks if task.default is not None and task.best != 0]
    groups = [[built[task.space.key, number] for number in (0, task.best) * 2] for task in gained]
    for task, outcomes in zip(gained, runner.in_turns(groups), strict=True):
        for number, pair in ((0, outcomes[::2]), (task.best, outcomes[1::2])):
            times = [outcome for outcome in pair if isinstance(outcome, Measurement)]
            if times:
                run.confirmed(task, number, min(times, key=lambda m: m.seconds))
