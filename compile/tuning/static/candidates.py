"""Selects the decisions to estimate: the most promising by the schedules' own models."""

from __future__ import annotations

import math

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.cpu import block
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

#: Halving or doubling a number of the default decision costs this share of the modelled cycles, so
#: that of two equal decisions the one closer to the default comes first.
_DISTANCE_PENALTY = 0.02


def candidates(workload: Workload, target: Target, limit: int) -> list[Decision]:
    """Return the most promising decisions of a layer, the default first.

    Parameters
    ----------
    workload : Workload
        The layer.
    target : Target
        The machine.
    limit : int
        Maximum number of decisions; 1 means the default only.
    """
    default, *others = registry.decisions(workload, target)
    if isinstance(default, block.Decision):
        # Larger bands leave threads idle, which an estimate for one thread does not show.
        others = [d for d in others if isinstance(d, block.Decision) and d.rows <= default.rows]
    best = min(registry.cycles(workload, decision, target) for decision in (default, *others))

    def score(decision: Decision) -> float:
        model = registry.cycles(workload, decision, target) / best
        return model + _DISTANCE_PENALTY * _distance(decision, default)

    return [default, *sorted(others, key=score)[: limit - 1]]


def _distance(decision: Decision, default: Decision) -> float:
    """Return the number of doublings or halvings between two decisions."""
    pairs = zip(vars(decision).values(), vars(default).values(), strict=True)
    return sum(abs(math.log2((1 + one) / (1 + other))) for one, other in pairs)
