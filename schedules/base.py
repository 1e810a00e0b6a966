"""The interface of a schedule: it computes the layers of one operator on one kind of target."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from tvm import s_tir, tirx

from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

#: A fallback rule; it returns None for a function that it does not handle.
Rule = Callable[[tirx.PrimFunc, Target], s_tir.Schedule | None]


class Decision:
    """How to compute a layer: a frozen dataclass of numbers, as stored in tuning logs.

    Each schedule defines its own subclass.
    """


W = TypeVar("W", bound=Workload)
D = TypeVar("D", bound=Decision)


class Schedule(ABC, Generic[W, D]):
    """Computes the layers of one operator.

    Attributes
    ----------
    workload_type : type
        Type of the layers.
    decision_type : type
        Type of its decisions.
    """

    workload_type: type[W]
    decision_type: type[D]
    #: Whether it computes layers whose windows are dilated.
    dilates: ClassVar[bool] = False

    def takes(self, workload: Workload, target: Target) -> bool:  # noqa: ARG002
        """Return whether this schedule computes a layer, on a target of its kind."""
        fits = self.dilates or not workload.dilated
        return fits and isinstance(workload, self.workload_type)

    @abstractmethod
    def default(self, workload: W, target: Target) -> D:
        """Choose a valid decision from the target's description alone."""

    @abstractmethod
    def space(self, workload: W, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""

    @abstractmethod
    def valid(self, workload: W, decision: D, target: Target) -> bool:
        """Return whether `build` accepts a decision."""

    @abstractmethod
    def decisions(self, workload: W, target: Target) -> list[D]:
        """Return the valid decisions in the space, without duplicates."""

    def pack(self, weights: Sequence[Array], decision: D) -> list[Array]:  # noqa: ARG002
        """Pack weights into the layout that the schedule reads.

        Parameters
        ----------
        weights : sequence of ndarray
            Of the shapes given by the workload's `weights`.
        decision : Decision
            The layer's.

        Returns
        -------
        list of ndarray
            The same number of arrays, in the function's order. By default they are only made
            contiguous.
        """
        return [np.ascontiguousarray(weight) for weight in weights]

    def arrange(self, operand: Array, decision: D, part: int = 0) -> Array:  # noqa: ARG002
        """Return an operand with a value per channel in the order in which the function reads it.

        Parameters
        ----------
        operand : ndarray
            The values; the last axis is the channels.
        decision : Decision
            The layer's.
        part : int
            Which of the layers that are fused into it has the operand.

        Returns
        -------
        ndarray
            By default the operand as it is.
        """
        return operand

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
            Takes the data; for each layer in the workload its packed weights, its gates if it has
            any, and its epilogue's tensors; and the output. Images are in NHWC, except that a stem
            may read NCHW.
        """

    @abstractmethod
    def features(self, workload: W, decision: D, target: Target) -> dict[str, float]:
        """Describe a decision for the cost model, by numbers that are comparable across layers."""

    @abstractmethod
    def cycles(self, workload: W, decision: D, target: Target) -> float:
        """Estimate a decision's cost in cycles; on CPUs, comparable only within one layer."""

    def pays(self, workload: W, target: Target) -> bool:  # noqa: ARG002
        """Return whether a fused or gated layer is faster than its separate parts."""
        return True

    def stages(self, workload: W, target: Target) -> list[W]:  # noqa: ARG002
        """Return the layers that together compute a workload; usually just the workload itself."""
        return [workload]


@functools.cache
def default_decision(schedule: Schedule[W, D], workload: W, target: Target) -> D:
    """Return a schedule's default decision, computed once."""
    return schedule.default(workload, target)
