"""Which layer gets the next batch of candidates while boards still measure other layers'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule

from mobilenet_tvm.compile.tuning.task import Task

#: As in MetaSchedule's scheduler: what counts are the gains of the last batches, but more so how
#: long the layer takes for each batch it has had.
_ALPHA, _WINDOW = 0.2, 3


class Measuring(Protocol):
    """A runner that measures while its caller goes on."""

    @property
    def hungry(self) -> bool:
        """Whether it will soon have nothing left to measure."""

    def wait(self) -> None:
        """Wait until another candidate is measured."""


def promise(best: Sequence[float]) -> float:
    """Estimate what a layer's next batch gains, in seconds.

    Parameters
    ----------
    best : sequence of float
        The layer's shortest time after each of its batches.
    """
    if not best:
        return float("inf")
    gain = (best[-1 - _WINDOW] - best[-1]) / _WINDOW if len(best) > _WINDOW else 0.0
    return _ALPHA * gain + (1 - _ALPHA) * best[-1] / len(best)


# MetaSchedule's GradientBased waits for the batch of the layer that promises most before it
# makes the next one, so that boards are idle while it is built.
@derived_object
class OverlappingScheduler(meta_schedule.task_scheduler.PyTaskScheduler):  # type: ignore[misc]
    """Keeps a runner busy: takes the layer that promises most of those not being measured.

    Parameters
    ----------
    tasks : sequence of Task
        The layers, in the order of MetaSchedule's tasks.
    runner : Measuring
        Measures them.
    """

    def __init__(self, tasks: Sequence[Task], runner: Measuring) -> None:
        super().__init__()
        self._tasks = tasks
        self._runner = runner
        self._best: list[list[float]] = [[] for _ in tasks]
        self._running: set[int] = set()

    def next_task_id(self) -> int:
        """Return the layer's index; -1 when all have ended."""
        while True:
            self._join()
            records = self._outer().tasks_
            alive = [index for index, record in enumerate(records) if not record.is_terminated]
            if not alive:
                return -1
            idle = [index for index in alive if index not in self._running]
            if idle and self._runner.hungry:
                chosen = max(idle, key=lambda i: self._tasks[i].count * promise(self._best[i]))
                self._running.add(chosen)
                return chosen
            self._runner.wait()

    def _join(self) -> None:
        """Take note of the batches that are measured."""
        scheduler = self._outer()
        for index in sorted(self._running):
            scheduler.touch_task(index)
            if scheduler.tasks_[index].runner_futures is None:
                self._running.remove(index)
                times, best = self._tasks[index].times, self._tasks[index].best
                if best in times:
                    self._best[index].append(times[best].seconds)
