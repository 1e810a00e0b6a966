"""A layer's decisions as a design space of MetaSchedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule, meta_schedule

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

_BLOCK = "layer"
_DECISION = "mobilenet_tvm.decision"
_LAYER = "mobilenet_tvm.layer"


class Space:
    """All decisions of a layer, and their form as candidates.

    A decision changes how weights are packed, so no function is common to all candidates. What
    MetaSchedule schedules is a function that only names the layer; its trace samples a
    decision's number and writes it on the block, from which the builder reads it.

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
    mod : IRModule
        What MetaSchedule schedules.
    """

    def __init__(self, workload: Workload, target: Target, extra: Iterable[Any] = ()) -> None:
        self.workload = workload
        self.target = target
        self.decisions = list(dict.fromkeys([*registry.decisions(workload, target), *extra]))
        layer = te.compute((1,), lambda _: tirx.const(0.0, "float32"), name=_BLOCK)
        func = te.create_prim_func([layer]).with_attrs(
            {"global_symbol": "main", _LAYER: space_key(workload, target)}
        )
        self.mod = tvm.IRModule({"main": func})

    @property
    def key(self) -> str:
        """The name of this space among those of all layers and targets."""
        return space_key(self.workload, self.target)

    def sample(self, sch: Schedule) -> None:
        """Schedule the function with a random decision: a `ScheduleFn` of MetaSchedule."""
        count = len(self.decisions)
        number = sch.sample_categorical(list(range(count)), [1 / count] * count)
        sch.annotate(sch.get_sblock(_BLOCK), _DECISION, number)

    @cached_property
    def candidates(self) -> Sequence[meta_schedule.MeasureCandidate]:
        """Every decision, in order, as what MetaSchedule measures and predicts."""
        sampled = Schedule(self.mod)
        self.sample(sampled)
        (instruction,) = sampled.trace.decisions
        found = []
        for number in range(len(self.decisions)):
            sch = Schedule(self.mod)
            sampled.trace.with_decision(instruction, number, True).apply_to_schedule(sch, True)
            found.append(meta_schedule.MeasureCandidate(sch, []))
        return found


def space_key(workload: Workload, target: Target) -> str:
    """Return the name of a layer's space on a target; two machines may both be `native`."""
    return f"{target}: {workload}"


def key_of(mod: tvm.IRModule) -> str:
    """Return the name of the space that a function, scheduled or not, belongs to."""
    return str(mod["main"].attrs[_LAYER])


def number_in(mod: tvm.IRModule) -> int:
    """Return the decision's number that a schedule has written on its function."""
    sch = Schedule(mod)
    return int(sch.get(sch.get_sblock(_BLOCK)).annotations[_DECISION])


def number_of(candidate: meta_schedule.MeasureCandidate) -> int:
    """Return the decision's number in a candidate's trace."""
    (number,) = candidate.sch.trace.decisions.values()
    return int(number)
