"""What the cost model sees of a candidate: numbers that compare layers and targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import OPERATORS, TENSOR_STEPS, Workload
from mobilenet_tvm.targets.target import Target

Table = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Features:
    """Candidates in numbers.

    Parameters
    ----------
    names : tuple of str
        Of the columns.
    values : ndarray
        [candidates, columns]; NaN for what does not apply.
    """

    names: tuple[str, ...]
    values: Table

    @staticmethod
    def of(rows: Sequence[Mapping[str, float]]) -> Features:
        """Collect candidates, each by name."""
        names = all_names(rows)
        table = [[row.get(name, np.nan) for name in names] for row in rows]
        return Features(names, np.array(table, np.float32).reshape(len(rows), len(names)))

    def rows(self, numbers: Sequence[int]) -> Features:
        """Return some of the candidates."""
        return Features(self.names, self.values[list(numbers)])

    def columns(self, names: Sequence[str]) -> Table:
        """Return the columns of these names, [candidates, names]; NaN for those it lacks."""
        found = np.full((len(self.values), len(names)), np.nan, np.float32)
        places = {name: place for place, name in enumerate(names)}
        for column, name in enumerate(self.names):
            if name in places:
                found[:, places[name]] = self.values[:, column]
        return found

    def plus(self, name: str, column: Table) -> Features:
        """Return the same candidates with another column."""
        return Features((*self.names, name), np.column_stack([self.values, column]))


def all_names(parts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return the names that any of some parts has, sorted."""
    return tuple(sorted({name for part in parts for name in part}))


def features(workload: Workload, decision: Decision, target: Target) -> dict[str, float]:
    """Describe a candidate; what does not apply is absent.

    Parameters
    ----------
    workload : Workload
        The layer.
    decision : Decision
        How it is computed.
    target : Target
        The machine.
    """
    return {
        **{f"is_{operator}": float(workload.operator == operator) for operator in OPERATORS},
        "flops": workload.flops,
        "bytes": workload.bytes,
        "flops_per_byte": workload.flops / workload.bytes,
        "residuals": sum(step.op in TENSOR_STEPS for step in workload.epilogue),
        "epilogue": len(workload.epilogue),
        "lanes_of_target": target.lanes_of(workload.types.sums),
        "registers": target.vector_registers,
        "fma_per_cycle": target.fma_per_cycle,
        **{name: float(value) for name, value in vars(decision).items()},
        **registry.features(workload, decision, target),
    }


# TVM's PerStoreFeature looks at the loops of the scheduled function, which here exist only once a
# candidate is built: 5 ms each, where a whole space takes as long this way.
def features_of(space: Space) -> Features:
    """Return the features of a space's decisions, in their order."""
    return Features.of([features(space.workload, d, space.target) for d in space.decisions])
