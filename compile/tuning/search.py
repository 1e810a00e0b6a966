"""The search strategy: predict a layer's whole space, measure the best predicted."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule

from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.features import Table
from mobilenet_tvm.compile.tuning.metaschedule import tune_context
from mobilenet_tvm.compile.tuning.space import number_of
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.targets.host import core_count

#: Candidates per batch: few, since the model learns after each, but enough for all cores.
BATCH = max(4, core_count())
#: The share of a batch that is drawn at random instead of predicted.
EXPLORED = 0.25
#: A layer is done when the model promises less than this share of the best throughput for all
#: decisions that are left, and the last batch has found nothing better. On the three layers of
#: benchmarks/cost_model.py that was so after 22 to 75 trials, within 0.4 % of the best.
PROMISED = 0.99
#: It has to have seen so many batches of the layer before it is believed.
BELIEVED = 5


def predicted_best(
    untried: Sequence[int],
    scores: Table | None,
    count: int,
    rng: np.random.Generator,
) -> list[int]:
    """Choose what to measure next.

    Parameters
    ----------
    untried : sequence of int
        Numbers of decisions.
    scores : ndarray, optional
        What each model predicts for each, [models, untried]; higher is faster. They choose in turn.
    count : int
        How many to choose.
    rng : Generator
        For the share that is drawn at random; all are where nothing is predicted.
    """
    chosen: list[int] = []
    if scores is not None:
        orders = [iter(np.argsort(-model, kind="stable")) for model in scores]
        for turn in range(min(count - int(EXPLORED * count), len(untried))):
            order = orders[turn % len(orders)]
            chosen.append(next(untried[i] for i in order if untried[i] not in chosen))
    others = sorted(set(untried) - set(chosen))
    drawn = rng.permutation(len(others))[: count - len(chosen)]
    return chosen + [others[i] for i in drawn]


# A space has at most some hundred decisions: to predict them all takes 8 ms, and finds the best
# predicted for certain. EvolutionarySearch, built for endless spaces, took 300 ms and did not.
@derived_object
class WholeSpaceSearch(meta_schedule.search_strategy.PySearchStrategy):  # type: ignore[misc]
    """Chooses a layer's candidates.

    Parameters
    ----------
    task : Task
        The layer.
    model : CostModel
        Shared by all layers.
    seed : int
        Of what is drawn.
    first : int
        How many candidates the first batch has.
    left : callable
        Tells how many candidates may still be tried.
    """

    def __init__(
        self, task: Task, model: CostModel, seed: int, first: int, left: Callable[[], int]
    ) -> None:
        super().__init__()
        self._task = task
        self._model = model
        self._rng = np.random.default_rng([seed, zlib.crc32(task.space.key.encode())])
        self._first = first
        self._left = left
        self._batches = 0
        self._improved = True
        self._size = 0

    def _initialize_with_tune_context(self, context: meta_schedule.TuneContext) -> None:
        """Nothing is needed of the context."""

    def pre_tuning(
        self,
        max_trials: int,  # noqa: ARG002
        num_trials_per_iter: int,
        design_spaces: Sequence[Any],  # noqa: ARG002
        database: Any = None,  # noqa: ARG002
        cost_model: Any = None,  # noqa: ARG002
    ) -> None:
        """Take note of the batches' size."""
        self._size = num_trials_per_iter

    def post_tuning(self) -> None:
        """Nothing remains to be done."""

    def generate_measure_candidates(self) -> list[meta_schedule.MeasureCandidate] | None:
        """Return the next batch, or None where this layer is done."""
        numbers = self._next()
        self._batches += 1
        self._task.chosen += len(numbers)
        return [self._task.space.candidates[number] for number in numbers] or None

    def notify_runner_results(
        self,
        measure_candidates: Sequence[meta_schedule.MeasureCandidate],
        results: Sequence[Any],  # noqa: ARG002
    ) -> None:
        """Learn from the last batch, and take note of whether it found a better decision."""
        numbers = [number_of(candidate) for candidate in measure_candidates]
        times = self._task.times
        self._improved = self._task.best in numbers
        self._model.learn(self._task.space, {n: times[n].seconds for n in numbers if n in times})

    def clone(self) -> Any:
        """Return another one in the state before tuning."""
        raise NotImplementedError("one layer has one search")

    def _next(self) -> list[int]:
        task, left = self._task, self._left()
        if not left:
            task.ended = "no trials or time left"
            return []
        untried = task.untried
        if self._batches == 0:
            # What is known to be best is measured again: this day's times decide.
            certain = list(dict.fromkeys([0, *sorted(task.known, key=task.known.__getitem__)[:1]]))
            remaining = [number for number in untried if number not in certain]
            count = max(0, self._first - len(certain))
            chosen = predicted_best(
                remaining, self._model.scores(task.space, remaining), count, self._rng
            )
            return (certain + chosen)[:left]
        if task.default is None:
            task.ended = "the default decision failed"
            return []
        if not untried:
            task.ended = "all decisions measured"
            return []
        scores = self._model.scores(task.space, untried)
        if (
            scores is not None
            and self._batches >= BELIEVED
            and not self._improved
            and scores.mean(axis=0).max() < PROMISED
        ):
            task.ended = "no gain expected"
            return []
        return predicted_best(untried, scores, min(self._size, left), self._rng)


def search(
    tasks: Sequence[Task],
    model: CostModel,
    builder: Any,
    runner: Any,
    *,
    trials: int,
    left: Callable[[], int],
    seed: int,
    scheduler: Any = None,
    batch: int = BATCH,
) -> None:
    """Let one of MetaSchedule's schedulers share the trials out among layers.

    Parameters
    ----------
    tasks : sequence of Task
        The layers; the first ones get the first trials.
    model : CostModel
        Knows the tasks' spaces.
    builder, runner : Builder, Runner
        MetaSchedule's, or of the same interface; they see to it that the tasks know the outcomes.
    trials : int
        How many candidates are tried.
    left : callable
        Returns how many may still be tried; none when the time is up.
    seed : int
        Of all that is drawn.
    scheduler : TaskScheduler, optional
        MetaSchedule's gradient-based one by default.
    batch : int
        Candidates of a layer that are built and measured before the model learns from them.
    """
    # A third of the trials at most goes into the first look at all layers.
    first = max(1, min(batch, trials // (3 * len(tasks))))
    contexts = [
        tune_context(
            task.space.mod,
            target=llvm_target(task.space.target),
            space_generator=meta_schedule.space_generator.ScheduleFn(
                task.space.sample, sch_rules=[], postprocs=[], mutator_probs={}
            ),
            search_strategy=WholeSpaceSearch(task, model, seed, first, left),
            task_name=task.space.key,
            rand_state=seed + 1,
            num_threads=1,
        )
        for task in tasks
    ]
    scheduler = scheduler or meta_schedule.task_scheduler.GradientBased(seed=seed + 1)
    scheduler.tune(
        contexts,
        [float(task.count) for task in tasks],
        max_trials_global=trials,
        max_trials_per_task=trials,
        num_trials_per_iter=batch,
        builder=builder,
        runner=runner,
        # The searches themselves tell the cost model.
        measure_callbacks=[],
        database=None,
        cost_model=None,
    )
