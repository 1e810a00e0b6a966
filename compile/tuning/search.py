"""One layer's search: predicts its whole space, and has the best predicted decisions measured."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.features import Table
from mobilenet_tvm.compile.tuning.measure import Failure
from mobilenet_tvm.compile.tuning.task import Task

#: The share of a batch that is drawn at random instead of predicted.
EXPLORED_SHARE = 0.25
#: A layer is done when no decision that is left is predicted to reach this share of the best
#: throughput, and the last batch has found nothing better. On the three layers of
#: benchmarks/cost_model.py that was so after 22 to 75 trials, within 0.4 % of the best.
MIN_PREDICTED = 0.99
#: How many batches of the layer the model must have seen before that is believed.
MIN_BATCHES = 5


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
        What each model predicts for each, [models, untried]; higher is faster. The models choose
        in turn.
    count : int
        How many to choose.
    rng : Generator
        Draws a share at random; all of them where nothing is predicted.
    """
    chosen: list[int] = []
    if scores is not None:
        orders = [iter(np.argsort(-model, kind="stable")) for model in scores]
        for turn in range(min(count - int(EXPLORED_SHARE * count), len(untried))):
            order = orders[turn % len(orders)]
            chosen.append(next(untried[i] for i in order if untried[i] not in chosen))
    others = sorted(set(untried) - set(chosen))
    drawn = rng.permutation(len(others))[: count - len(chosen)]
    return chosen + [others[i] for i in drawn]


# A space has a few hundred decisions at most: predicting all of them takes 8 ms, and is certain to
# find the best predicted. MetaSchedule's EvolutionarySearch, made for endless spaces, took 300 ms
# a batch and did not.
class LayerSearch:
    """Chooses a layer's candidates, one batch at a time.

    Parameters
    ----------
    task : Task
        The layer.
    model : CostModel
        Shared by all layers.
    seed : int
        For what is drawn at random.
    first, size : int
        How many candidates the first batch has, and each that follows.
    left : callable
        Returns how many candidates may still be tried.

    Attributes
    ----------
    batches : int
        How many batches were chosen.
    best_seconds : list of float
        The layer's shortest time after each batch that was learnt from.
    """

    def __init__(
        self,
        task: Task,
        model: CostModel,
        seed: int,
        first: int,
        size: int,
        left: Callable[[], int],
    ) -> None:
        self.task = task
        self.batches = 0
        self.best_seconds: list[float] = []
        self._model = model
        self._rng = np.random.default_rng([seed, zlib.crc32(task.space.key.encode())])
        self._first = first
        self._size = size
        self._left = left
        self._batch: list[int] = []
        self._improved = True

    def next_batch(self) -> list[int]:
        """Return the numbers of the decisions to try next; none when the layer is done."""
        task, left = self.task, self._left()
        self._batch = []
        if isinstance(task.outcomes.get(0), Failure):
            task.ended = "the default decision failed"
        elif not task.untried and self.batches:
            task.ended = "all decisions measured"
        elif not left:
            task.ended = "no trials or time left"
        elif self.batches == 0:
            self._batch = self._first_batch()[:left]
        else:
            self._batch = self._predicted_batch(min(self._size, left))
        self.batches += bool(self._batch)
        task.chosen += len(self._batch)
        return self._batch

    def learn(self) -> None:
        """Learn from the last batch, all of which has been tried."""
        times, best = self.task.times, self.task.best
        self._improved = best in self._batch
        self._model.learn(self.task.space, {n: times[n].seconds for n in self._batch if n in times})
        if best in times:
            self.best_seconds.append(times[best].seconds)

    def _first_batch(self) -> list[int]:
        """Choose the default and the best known decision, measured anew today, and others."""
        task = self.task
        certain = list(dict.fromkeys([0, *sorted(task.known, key=task.known.__getitem__)[:1]]))
        untried = [number for number in task.untried if number not in certain]
        scores = self._model.scores(task.space, untried)
        count = max(0, self._first - len(certain))
        return certain + predicted_best(untried, scores, count, self._rng)

    def _predicted_batch(self, count: int) -> list[int]:
        """Choose by what was learnt; nothing when no gain is expected."""
        untried = self.task.untried
        scores = self._model.scores(self.task.space, untried)
        if (
            scores is not None
            and self.batches >= MIN_BATCHES
            and not self._improved
            and scores.mean(axis=0).max() < MIN_PREDICTED
        ):
            self.task.ended = "no gain expected"
            return []
        return predicted_best(untried, scores, count, self._rng)
