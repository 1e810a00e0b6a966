"""A layer's design space: every decision that is valid for it on a target."""

from __future__ import annotations

from collections.abc import Iterable

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target


class Space:
    """The decisions of a layer; a decision's place in the list is its number.

    Parameters
    ----------
    workload : Workload
        The layer.
    target : Target
        The machine.
    extra : iterable of decisions
        Valid ones that need not be in today's space, such as a log's.

    Attributes
    ----------
    decisions : list
        The default decision is the first.
    key : str
        Names the space among those of all layers and targets; two machines may both be `native`.
    """

    def __init__(self, workload: Workload, target: Target, extra: Iterable[Decision] = ()) -> None:
        self.workload = workload
        self.target = target
        self.decisions = list(dict.fromkeys([*registry.decisions(workload, target), *extra]))
        self.key = f"{target}: {workload}"
