"""The search on invented times: nothing is built, nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mobilenet_tvm.compile.tuning.cost_model import MODELS, CostModel
from mobilenet_tvm.compile.tuning.local.builder import Candidate, Compiled
from mobilenet_tvm.compile.tuning.measure import Failure, Measurement
from mobilenet_tvm.compile.tuning.scheduler import BATCH_SIZE, run_trials
from mobilenet_tvm.compile.tuning.search import predicted_best
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import (
    Depthwise,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
)
from mobilenet_tvm.targets.presets import PRESETS

X86 = PRESETS["x86"]
POOL = GlobalPool(1, 49, 96)
DENSE = Pointwise(196, 96, 576, (Step("add_channel"),))
DEPTHWISE = Depthwise(1, 14, 14, 64, Window((3, 3), (1, 1), (1, 1, 1, 1)))

Seconds = Callable[[Task, int], float | None]


def no_build(task: Task, numbers: Sequence[int]) -> list[Candidate]:
    """Return candidates that are not built."""
    return [Candidate(task, number, Path(), Compiled([])) for number in numbers]


class NoRunner:
    """Invents times, and keeps the order of the candidates."""

    concurrency = 1
    wants_work = True
    over = ""
    seconds = 0.0

    def __init__(self, seconds: Seconds) -> None:
        self.invent = seconds
        self.order: list[tuple[Workload, int]] = []

    def submit(self, candidates: Sequence[Candidate]) -> None:
        """Invent the times of a batch."""
        for candidate in candidates:
            task, number = candidate.task, candidate.number
            seconds = self.invent(task, number)
            failed = Failure("error", "failed")
            task.outcomes[number] = Measurement(seconds, seconds, 0, 1) if seconds else failed
            self.order.append((task.workload, number))

    def unfinished(self) -> set[Candidate]:
        """Return nothing: all have a time."""
        return set()


def by_tile(task: Task, number: int) -> float:
    """Invent a time that grows with the distance from one decision's tile."""
    decision = task.space.decisions[number]
    tile = [getattr(decision, part, 0) for part in ("tile_m", "tile_x", "tile_n", "tile_c")]
    return 1e-4 * (1 + abs(sum(tile) - 24) / 24) * task.workload.flops / DENSE.flops


def run(
    layers: dict[Workload, int],
    seconds: Seconds = by_tile,
    trials: int = 60,
    seed: int = 0,
    known: dict[int, float] | None = None,
    left: Callable[[list[Task]], int] | None = None,
) -> tuple[list[Task], list[tuple[Workload, int]]]:
    tasks = [Task(Space(layer, X86), count, known or {}) for layer, count in layers.items()]
    model = CostModel(seed)
    for task in tasks:
        model.learn(task.space, task.known)
    runner = NoRunner(seconds)

    def remaining() -> int:
        return left(tasks) if left else trials - sum(len(task.outcomes) for task in tasks)

    run_trials(tasks, model, no_build, runner, trials=trials, left=remaining, seed=seed)
    return tasks, runner.order


LAYERS: dict[Workload, int] = {DENSE: 1, DEPTHWISE: 4, POOL: 1}


def test_the_default_decision_is_the_first_of_each_layer() -> None:
    _, order = run(LAYERS)
    for layer in LAYERS:
        assert next(number for workload, number in order if workload == layer) == 0


def test_no_candidate_is_tried_twice_and_no_more_than_asked_for() -> None:
    for trials in (1, 7, 30):
        _, order = run(LAYERS, trials=trials)
        assert len(set(order)) == len(order) == trials


def test_the_seed_decides_the_order() -> None:
    first, again, other = (run(LAYERS, seed=seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_model_finds_what_chance_does_not() -> None:
    (task,), _ = run({DENSE: 1}, trials=40)
    best = min(by_tile(task, number) for number in range(len(task.space.decisions)))
    assert task.times[task.best].seconds <= 1.05 * best


def test_trials_go_where_they_save_most() -> None:
    heavy = Pointwise(196, 96, 512)
    tasks, _ = run({DENSE: 1, heavy: 20}, trials=28)
    few, many = (len(task.outcomes) for task in tasks)
    assert many > 2 * few


def test_a_space_that_is_measured_wholly_ends_the_layer() -> None:
    (task,), order = run({POOL: 1}, trials=100)
    assert len(order) == len(registry.decisions(POOL, X86))
    assert task.ended == "all decisions measured"


def test_a_layer_ends_when_no_gain_is_expected() -> None:
    (task,), order = run({DENSE: 1}, lambda _, number: 1e-4 if number == 0 else 1e-3, trials=300)
    assert task.ended == "no gain expected"
    assert len(order) < 60


def test_a_layer_whose_default_fails_is_given_up() -> None:
    (task,), order = run({DENSE: 1}, lambda *_: None)
    assert task.ended == "the default decision failed"
    assert len(order) <= BATCH_SIZE


def test_no_batch_starts_when_the_time_is_up() -> None:
    tasks, order = run(LAYERS, left=lambda tasks: 0 if len(tasks[0].outcomes) else 100)
    assert [len(task.outcomes) > 0 for task in tasks] == [True, False, False]
    assert {task.ended for task in tasks} == {"no trials or time left"}
    assert len(order) <= BATCH_SIZE


def test_of_what_is_known_only_the_best_is_measured_again() -> None:
    known = {5: 3e-4, 9: 1e-4, 11: 2e-4}
    _, order = run({DENSE: 1}, known=known)
    numbers = [number for _, number in order]
    assert numbers[:2] == [0, 9]
    assert set(numbers) & known.keys() == {9}


def test_another_targets_trials_help_from_the_first_batch_on() -> None:
    elsewhere = Task(Space(DENSE, PRESETS["x86-avx512"]), 1)
    decisions = elsewhere.space.decisions
    trials = [(decision, by_tile(elsewhere, n)) for n, decision in enumerate(decisions)]
    model = CostModel(0, {PRESETS["x86-avx512"]: {DENSE: trials}})
    task = Task(Space(DENSE, X86), 1)
    numbers = range(len(task.space.decisions))
    scores = model.scores(task.space, numbers)
    assert scores is not None
    promised = [by_tile(task, int(n)) for n in np.argsort(-scores[0])[:4]]
    assert max(promised) < np.median([by_tile(task, n) for n in numbers])


def test_misleading_earlier_trials_are_unlearnt() -> None:
    space = Space(DENSE, X86)
    task = Task(space, 1)
    times = [by_tile(task, number) for number in range(len(space.decisions))]
    # The slower a decision is, the faster it was elsewhere.
    lies = [(decision, 1 / s) for decision, s in zip(space.decisions, times, strict=True)]
    model = CostModel(0, {X86: {DENSE: lies}})
    model.learn(space, {n: times[n] for n in range(0, len(times), 4)})
    unseen = [n for n in range(len(times)) if n % 4]
    scores = model.scores(space, unseen)
    assert scores is not None
    promised = [times[unseen[i]] for i in np.argsort(-scores.mean(axis=0))[:4]]
    assert max(promised) < np.median(times)


def test_nothing_is_predicted_before_anything_is_known() -> None:
    space = Space(DENSE, X86)
    model = CostModel(0)
    model.learn(space, {})
    assert model.scores(space, [0, 1]) is None
    model.learn(space, {0: 1e-5, 1: 2e-5})
    scores = model.scores(space, [0, 1, 2])
    assert scores is not None
    assert scores.shape == (MODELS, 3)


def test_without_a_prediction_all_is_drawn() -> None:
    rng = np.random.default_rng(0)
    chosen = predicted_best(range(100), None, 8, rng)
    assert len(set(chosen)) == 8
    assert chosen != sorted(chosen)[:8] or chosen[-1] > 8


def test_a_share_is_drawn_beside_the_best_predicted() -> None:
    scores = np.arange(100.0)[np.newaxis]
    chosen = predicted_best(range(100), scores, 8, np.random.default_rng(0))
    assert chosen[:6] == [99, 98, 97, 96, 95, 94]
    assert len(set(chosen)) == 8


def test_models_choose_in_turn_and_nothing_twice() -> None:
    scores = np.array([np.arange(100.0), -np.arange(100.0), np.arange(100.0)])
    chosen = predicted_best(range(100), scores, 8, np.random.default_rng(0))
    assert chosen[:6] == [99, 0, 98, 97, 1, 96]
    assert len(set(chosen)) == 8


def test_less_than_a_batch_may_be_left() -> None:
    assert sorted(predicted_best([3, 5], np.array([[1.0, 2.0]]), 8, np.random.default_rng(0))) == [
        3,
        5,
    ]
