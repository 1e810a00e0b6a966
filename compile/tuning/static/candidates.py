"""Which decisions are worth an estimate: those that the schedules' own models find good."""

from __future__ import annotations

import math

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.cpu import block
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

#: Between two decisions that the model finds equal, the one nearer to the default goes first: to
#: halve or double a number counts as this share of the model's cycles.
_STEP = 0.02


def candidates(workload: Workload, target: Target, most: int) -> list[Decision]:
    """Return the most promising decisions of a layer, the default first.

    Parameters
    ----------
    workload : Workload
        The layer.
    target : Target
        The machine.
    most : int
        How many, at most; 1 is the default alone.
    """
    default, *others = registry.decisions(workload, target)
    if isinstance(default, block.Decision):
        # Larger bands leave threads without work, which an estimate for one does not see.
        others = [d for d in others if isinstance(d, block.Decision) and d.rows <= default.rows]
    least = min(registry.cycles(workload, decision, target) for decision in (default, *others))

    def score(decision: Decision) -> float:
        model = registry.cycles(workload, decision, target) / least
        return model + _STEP * _distance(decision, default)

    return [default, *sorted(others, key=score)[: most - 1]]


def _distance(decision: Decision, default: Decision) -> float:
    """Return how many doublings or halvings lie between two decisions."""
    pairs = zip(vars(decision).values(), vars(default).values(), strict=True)
    return sum(abs(math.log2((1 + one) / (1 + other))) for one, other in pairs)
