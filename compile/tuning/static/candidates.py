"""Which decisions are worth an estimate: those that the schedules' own models find good."""

from __future__ import annotations

import math
from typing import Any

from mobilenet_tvm.schedules import registry as operators
from mobilenet_tvm.schedules.cpu import pointwise
from mobilenet_tvm.schedules.workloads import (
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    Pointwise,
    Workload,
)
from mobilenet_tvm.targets.target import Target

#: Between two decisions that the model finds equal, the one nearer to the default goes first: to
#: halve or double a number counts as this share of the model's cycles.
_STEP = 0.02


def candidates(workload: Workload, target: Target, most: int) -> list[Any]:
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
    default, *others = operators.decisions(workload, target)
    if isinstance(workload, Block):
        # Larger bands leave threads without work, which an estimate for one does not see.
        others = [decision for decision in others if decision.rows <= default.rows]
    least = min(_model(workload, decision, target) for decision in (default, *others))

    def score(decision: Any) -> float:
        model = _model(workload, decision, target) / least
        return model + _STEP * _distance(decision, default)

    return [default, *sorted(others, key=score)[: most - 1]]


def _distance(decision: Any, default: Any) -> float:
    """Return how many doublings or halvings lie between two decisions."""
    pairs = zip(vars(decision).values(), vars(default).values(), strict=True)
    return sum(abs(math.log2((1 + one) / (1 + other))) for one, other in pairs)


def _model(workload: Workload, decision: Any, target: Target) -> float:
    """Return what compares the decisions of one layer: cycles, or loads per output."""
    match workload:
        case Pointwise():
            return _product(workload, decision, target)
        case DepthwisePointwise():
            return _product(workload.pointwise, decision, target)
        case Block():
            taps = workload.first.kernel[0] * workload.first.kernel[1]
            height, width = workload.first.output
            inputs = taps * workload.first.inputs
            expansion = Pointwise(height * width, inputs, workload.first.outputs)
            lanes = math.gcd(workload.first.outputs, target.lanes)
            first = pointwise.cycles(expansion, target, lanes, decision.first_x, decision.first_c)
            depthwise = workload.halves.depthwise
            repeated = 1 + (depthwise.kernel[0] - depthwise.stride[0]) / decision.rows
            return float(repeated * first) + _product(workload.halves.pointwise, decision, target)
        case Depthwise():
            rows = (decision.tile_y - 1) * workload.stride[0] + workload.kernel[0]
            columns = (decision.tile_x - 1) * workload.stride[1] + workload.kernel[1]
            taps = workload.kernel[0] * workload.kernel[1]
            outputs = decision.tile_y * decision.tile_x
            return float(max((rows * columns + taps) / outputs, taps / target.fma_per_cycle))
        case Convolution():
            vectors = decision.tile_c / math.gcd(workload.outputs, target.lanes)
            sums = decision.tile_x * vectors
            busy = target.fma_latency * target.fma_per_cycle
            return float(max(1.0, busy / sums) + (decision.tile_x + vectors) / sums)
    return 1.0


def _product(workload: Pointwise, decision: Any, target: Target) -> float:
    tile = decision.lanes, decision.tile_m, decision.tile_n
    return pointwise.cycles(workload, target, *tile)
