"""One layer that is tuned: its space, and what is known about each decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mobilenet_tvm.compile.tuning.measure import Failure, Measurement
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload

#: What comes of a candidate.
Outcome = Measurement | Failure


@dataclass
class Task:
    """A layer and its results so far.

    Parameters
    ----------
    space : Space
        The layer's decisions.
    count : int
        How often the networks call the layer.
    known : mapping of int to float
        Seconds of decisions, by number, that were measured before.
    """

    space: Space
    count: int
    known: Mapping[int, float] = field(default_factory=dict)
    #: How many candidates were chosen; some of them may not be measured yet.
    chosen: int = 0
    #: By the decision's number, in the order of measuring.
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    #: What was measured again at the end: the default beside the best.
    confirmed: dict[int, Measurement] = field(default_factory=dict)
    #: Why its search ended.
    ended: str = ""

    @property
    def workload(self) -> Workload:
        """The layer."""
        return self.space.workload

    @property
    def times(self) -> dict[int, Measurement]:
        """What was measured, by the decision's number; the latest of each."""
        found = {n: m for n, m in self.outcomes.items() if isinstance(m, Measurement)}
        return found | self.confirmed

    @property
    def default(self) -> Measurement | None:
        """The time of the untuned layer, if it could be measured."""
        return self.times.get(0)

    @property
    def best(self) -> int:
        """The number of the best decision; the default's unless another is faster."""
        times = self.confirmed or self.times
        return min(times, key=lambda number: (times[number].seconds, number), default=0)

    @property
    def decision(self) -> Decision:
        """The best decision."""
        return self.space.decisions[self.best]

    @property
    def untried(self) -> list[int]:
        """The numbers of the decisions that were never tried."""
        return [
            number
            for number in range(len(self.space.decisions))
            if number not in self.outcomes and number not in self.known
        ]

    @property
    def failures(self) -> Counter[str]:
        """How many candidates failed, by kind."""
        return Counter(o.kind for o in self.outcomes.values() if isinstance(o, Failure))


#: Gets the outcome of a task's decision, by its number.
OnOutcome = Callable[[Task, int, Outcome], None]
