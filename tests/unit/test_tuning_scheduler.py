"""The loop that shares trials out among layers, and which layer is next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest

from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.local.builder import Candidate, Compiled
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.scheduler import promise, run_trials
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules.workloads import Depthwise, GlobalPool, Pointwise, Window, Workload
from mobilenet_tvm.targets.presets import PRESETS

LAYERS: list[Workload] = [
    Pointwise(196, 96, 576),
    Pointwise(196, 96, 512),
    Depthwise(1, 14, 14, 64, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    GlobalPool(1, 49, 96),
]


class SlowRunner:
    """Measures one candidate in each wait, as boards do while the tuner builds.

    Parameters
    ----------
    lost_after : int, optional
        No board is left after so many candidates.
    """

    concurrency = 2
    seconds = 0.0

    def __init__(self, lost_after: int | None = None) -> None:
        self.over = ""
        self.waits = 0
        #: The layers of the batches, and whether each found the runner's queue short.
        self.batches: list[Task] = []
        self.was_short: list[bool] = []
        self._lost_after = lost_after
        self._queue: deque[Candidate] = deque()

    @property
    def wants_work(self) -> bool:
        """Whether few candidates wait."""
        return len(self._queue) < 2 * self.concurrency

    def build(self, task: Task, numbers: Sequence[int]) -> list[Candidate]:
        """Name candidates instead of building them; a layer has one batch at a time."""
        assert not any(candidate.task is task for candidate in self._queue)
        self.batches.append(task)
        self.was_short.append(self.wants_work)
        return [Candidate(task, number, Path(), Compiled([])) for number in numbers]

    def submit(self, candidates: Sequence[Candidate]) -> None:
        """Queue a batch."""
        self._queue.extend(candidates)

    def unfinished(self) -> set[Candidate]:
        """Return what is not measured yet."""
        return set(self._queue)

    def wait(self) -> None:
        """Measure a candidate."""
        self.waits += 1
        candidate = self._queue.popleft()
        candidate.task.outcomes[candidate.number] = Measurement(1e-4, 1e-4, 0, 1)
        if self.waits == self._lost_after:
            self.over = "no board is left"
            self._queue.clear()


def run(runner: SlowRunner, trials: int = 60) -> list[Task]:
    tasks = [Task(Space(layer, PRESETS["x86"]), 1) for layer in LAYERS]

    def left() -> int:
        return 0 if runner.over else trials - sum(task.chosen for task in tasks)

    run_trials(tasks, CostModel(0), runner.build, runner, trials=trials, left=left, seed=0)
    return tasks


def test_every_layer_has_its_first_batch_before_any_has_a_second() -> None:
    runner = SlowRunner()
    tasks = run(runner)
    assert [task is batch for task, batch in zip(tasks, runner.batches, strict=False)] == [True] * 4
    assert len(runner.batches) > 4


def test_batches_are_built_while_others_are_measured() -> None:
    runner = SlowRunner()
    tasks = run(runner)
    assert sum(len(task.outcomes) for task in tasks) == runner.waits == 60
    assert all(runner.was_short)
    assert {task.ended for task in tasks} == {"no trials or time left", "all decisions measured"}


def test_what_is_lost_ends_the_loop_without_outcomes() -> None:
    runner = SlowRunner(lost_after=7)
    tasks = run(runner)
    assert sum(len(task.outcomes) for task in tasks) == 7 < sum(task.chosen for task in tasks)
    assert {task.ended for task in tasks} == {"no trials or time left"}


def test_a_layer_without_a_time_comes_first() -> None:
    assert promise([]) == math.inf


def test_a_layer_that_takes_longer_promises_more_and_less_with_each_batch() -> None:
    assert promise([2.0]) > promise([1.0])
    assert promise([2.0, 2.0]) < promise([2.0])


def test_a_layer_that_still_gains_promises_more_than_one_that_does_not() -> None:
    assert promise([4.0, 3.0, 2.0, 1.0]) > promise([1.0, 1.0, 1.0, 1.0])
    # Gains count over the last batches only.
    assert promise([9.0, 1.0, 1.0, 1.0, 1.0]) == pytest.approx(promise([1.0] * 5))
