"""Predicts the time of a network from tuning logs, without a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mobilenet_tvm.compile.logs.decisions import Decisions, find_logs
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Prediction:
    """How long two networks take by tuning logs.

    Parameters
    ----------
    before, after : float
        Seconds of all layers of the full network, and of the pruned one.
    layers : int
        How many layers the pruned network has.
    known : int
        How many of these the logs have a time of; that of the others is taken from the layer most
        like it whose time is known, in proportion to the operations.
    """

    before: float
    after: float
    layers: int
    known: int


def predict(
    before: Sequence[Workload], after: Sequence[Workload], target: Target
) -> Prediction | None:
    """Predict how long the layers of a network take, and those of the same network pruned.

    Parameters
    ----------
    before, after : sequence of Workload
        The layers, from `pipeline.layers`.
    target : Target
        The machine, whose logs `find_logs` finds.

    Returns
    -------
    Prediction or None
        None if the logs know no layer of either.
    """
    decisions = Decisions(find_logs(None, target))
    times: dict[Workload, float] = {}
    for layer in {*before, *after}:
        if record := decisions.record(layer):
            times[layer] = 1e-6 * record.microseconds
    if not times:
        return None

    def seconds(layer: Workload) -> float:
        if layer in times:
            return times[layer]
        relatives = [known for known in times if known.operator == layer.operator] or list(times)
        nearest = min(relatives, key=lambda known: abs(math.log(known.flops / layer.flops)))
        return times[nearest] * layer.flops / nearest.flops

    known = sum(layer in times for layer in after)
    return Prediction(sum(map(seconds, before)), sum(map(seconds, after)), len(after), known)
