"""Features of candidates for the cost model, comparable across layers and targets."""

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
    """The feature table of some candidates.

    Parameters
    ----------
    names : tuple of str
        Names of the columns.
    values : ndarray
        [candidates, columns]; NaN for features that do not apply.
    """

    names: tuple[str, ...]
    values: Table

    @staticmethod
    def of(rows: Sequence[Mapping[str, float]]) -> Features:
        """Build the table from one mapping per candidate."""
        names = all_names(rows)
        table = [[row.get(name, np.nan) for name in names] for row in rows]
        return Features(names, np.array(table, np.float32).reshape(len(rows), len(names)))

    def rows(self, numbers: Sequence[int]) -> Features:
        """Return the rows of some candidates."""
        return Features(self.names, self.values[list(numbers)])

    def columns(self, names: Sequence[str]) -> Table:
        """Return the named columns, [candidates, names]; NaN for missing ones."""
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
    """Return the sorted union of names."""
    return tuple(sorted({name for part in parts for name in part}))


def features(workload: Workload, decision: Decision, target: Target) -> dict[str, float]:
    """Return a candidate's features; those that do not apply are absent.

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
        # The name of an instruction set is the same in all decisions of a layer.
        **{n: float(value) for n, value in vars(decision).items() if not isinstance(value, str)},
        **registry.features(workload, decision, target),
    }


# TVM's PerStoreFeature needs the loops of the scheduled function, which exist only after a
# candidate is built: 5 ms each, as long as a whole space takes this way.
def features_of(space: Space) -> Features:
    """Return the features of a space's decisions, in their order."""
    return Features.of([features(space.workload, d, space.target) for d in space.decisions])
