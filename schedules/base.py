"""What a schedule is: how the layers of one operator are computed on one kind of target."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from tvm import s_tir, tirx

from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

#: A rule for functions that have no schedule of their own; it returns None for one that is not its.
Rule = Callable[[tirx.PrimFunc, Target], s_tir.Schedule | None]


class Decision:
    """How to compute a layer: a frozen dataclass of numbers, as tuning logs write it.

    Each schedule has a type of its own.
    """


W = TypeVar("W", bound=Workload)
D = TypeVar("D", bound=Decision)


class Schedule(ABC, Generic[W, D]):
    """Computes the layers of one operator.

    Attributes
    ----------
    workload_type : type
        Of the layers.
    decision_type : type
        Of its decisions.
    """

    workload_type: type[W]
    decision_type: type[D]

    def takes(self, workload: Workload, target: Target) -> bool:  # noqa: ARG002
        """Tell whether a layer is this schedule's, on a target of its kind."""
        return isinstance(workload, self.workload_type)

    @abstractmethod
    def default(self, workload: W, target: Target) -> D:
        """Choose a decision from the target's description alone; always a valid one."""

    @abstractmethod
    def space(self, workload: W, target: Target) -> dict[str, list[Any]]:
        """Return the candidates for each part of a decision."""

    @abstractmethod
    def valid(self, workload: W, decision: D, target: Target) -> bool:
        """Tell whether `build` takes a decision."""

    @abstractmethod
    def decisions(self, workload: W, target: Target) -> list[D]:
        """Return the valid decisions of the space, each once."""

    def pack(self, weights: Sequence[Array], decision: D) -> list[Array]:  # noqa: ARG002
        """Lay weights out as the schedule reads them.

        Parameters
        ----------
        weights : sequence of ndarray
            Of the shapes that the workload's `weights` says.
        decision : Decision
            The layer's.

        Returns
        -------
        list of ndarray
            As many, in the function's order. Without another word they are read as they are.
        """
        return [np.ascontiguousarray(weight) for weight in weights]

    @abstractmethod
    def build(self, workload: W, decision: D, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function.

        Parameters
        ----------
        workload : Workload
            The layer.
        decision : Decision
            How to compute it.
        target : Target
            The machine.

        Returns
        -------
        PrimFunc
            Takes the data; for each layer in the workload its packed weights, gates where it has
            any, and its epilogue's tensors; and the output. Pictures are in NHWC, but for one that
            a stem reads in NCHW.
        """

    @abstractmethod
    def features(self, workload: W, decision: D, target: Target) -> dict[str, float]:
        """Describe a decision for the tuner's cost model, by numbers that compare layers."""

    @abstractmethod
    def cycles(self, workload: W, decision: D, target: Target) -> float:
        """Estimate what a decision costs; on CPUs, only to compare those of one layer."""

    def pays(self, workload: W, target: Target) -> bool:  # noqa: ARG002
        """Tell whether a fused layer, or one with gates, is faster than its parts apart."""
        return True

    def stages(self, workload: W, target: Target) -> list[W]:  # noqa: ARG002
        """Return the layers that together compute one: itself, where one function does it well."""
        return [workload]


@functools.cache
def default_decision(schedule: Schedule[W, D], workload: W, target: Target) -> D:
    """Return a schedule's default decision, which is computed once."""
    return schedule.default(workload, target)
