"""The loop that tunes: shares trials out among layers, and keeps this machine or boards busy.

TVM's MetaSchedule is not used. It imports its tensor intrinsics for half a minute, and its
gradient-based scheduler waits for the batch of the layer that it chose, so that boards are idle;
`search` and `local.runner` say what its search and its runner lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.local.builder import Candidate
from mobilenet_tvm.compile.tuning.search import LayerSearch
from mobilenet_tvm.compile.tuning.task import Outcome, Task
from mobilenet_tvm.targets.host import core_count

#: Candidates per batch: few, since the model learns after each, but enough for all cores.
BATCH_SIZE = max(4, core_count())

#: What counts are the gains of the last batches, but more so how long the layer takes for each
#: batch it has had; as in MetaSchedule's gradient-based scheduler.
_ALPHA, _WINDOW = 0.2, 3


class Runner(Protocol):
    """Measures candidates, and hands each outcome to a callback as soon as it is there."""

    @property
    def concurrency(self) -> int:
        """How many candidates it measures at a time."""

    @property
    def wants_work(self) -> bool:
        """Whether it will soon have nothing left to measure, or takes no more."""

    @property
    def over(self) -> str:
        """Why no more can be measured; empty as long as it can."""

    @property
    def seconds(self) -> float:
        """How long the tuner did nothing but wait for measurements."""

    def submit(self, candidates: Sequence[Candidate]) -> None:
        """Measure candidates, at once or while the caller goes on."""

    def unfinished(self) -> AbstractSet[Candidate]:
        """Return what was submitted and may still get an outcome; raise a callback's error."""

    def wait(self) -> None:
        """Wait until another candidate is measured, or for a moment."""

    def in_turns(self, groups: Iterable[Sequence[Candidate]]) -> Iterator[Sequence[Outcome]]:
        """Measure candidates again, those of a group in turns; yield each group's outcomes.

        They are not handed to the callback, and may be missing when the run is over.
        """

    def close(self) -> None:
        """Stop measuring, and give all boards back."""


def promise(best_seconds: Sequence[float]) -> float:
    """Estimate what a layer's next batch gains, in seconds.

    Parameters
    ----------
    best_seconds : sequence of float
        The layer's shortest time after each of its batches.
    """
    if not best_seconds:
        return float("inf")
    batches, last = len(best_seconds), best_seconds[-1]
    gain = (best_seconds[-1 - _WINDOW] - last) / _WINDOW if batches > _WINDOW else 0.0
    return _ALPHA * gain + (1 - _ALPHA) * last / batches


def run_trials(
    tasks: Sequence[Task],
    model: CostModel,
    build: Callable[[Task, Sequence[int]], Sequence[Candidate]],
    runner: Runner,
    *,
    trials: int,
    left: Callable[[], int],
    seed: int,
) -> None:
    """Build and measure candidates until all layers' searches have ended.

    Of the layers without a batch under way, the one that promises most gets the next one.

    Parameters
    ----------
    tasks : sequence of Task
        The layers; the first ones get the first trials.
    model : CostModel
        Knows the tasks' spaces.
    build : callable
        Builds a task's decisions, by their numbers; keeps the failures as outcomes, and returns
        the others.
    runner : Runner
        Measures what was built; its callback keeps the outcomes in the tasks.
    trials : int
        How many candidates are tried.
    left : callable
        Returns how many may still be tried; none when the time is up.
    seed : int
        For all that is drawn at random.
    """
    # One candidate in measuring and two waiting for each board, of all layers together.
    size = max(BATCH_SIZE, -(-3 * runner.concurrency // len(tasks)))
    # A third of the trials at most goes into the first look at all layers.
    first = max(1, min(size, trials // (3 * len(tasks))))
    active = [LayerSearch(task, model, seed, first, size, left) for task in tasks]
    under_way: dict[LayerSearch, Sequence[Candidate]] = {}
    while active or under_way:
        idle = [search for search in active if search not in under_way]
        if idle and runner.wants_work:
            search = max(idle, key=lambda s: s.task.count * promise(s.best_seconds))
            numbers = search.next_batch()
            if numbers:
                under_way[search] = build(search.task, numbers)
                runner.submit(under_way[search])
            else:
                active.remove(search)
        else:
            runner.wait()
        unfinished = runner.unfinished()
        # Learning starts when every layer has had its first batch, so that first batches do not
        # depend on which board is the fastest.
        if all(search.batches for search in active):
            for search in [s for s, batch in under_way.items() if unfinished.isdisjoint(batch)]:
                del under_way[search]
                search.learn()
