"""Makes arguments for one candidate, and measures it on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.runtime import measure as protocol
from mobilenet_tvm.runtime.measure import (
    Array,
    Failure,
    Measurement,
    Place,
    check,
    time_until_stable,
)
from mobilenet_tvm.schedules import operators
from mobilenet_tvm.schedules.workload import CHANNEL_STEPS, TENSOR_STEPS, Workload
from mobilenet_tvm.targets.target import Target

__all__ = [
    "Failure",
    "Measurement",
    "Parameters",
    "check",
    "measure",
    "place_of",
    "random_arguments",
    "time_until_stable",
    "tolerance",
]

#: Names and shapes of a function's parameters; the first is the data, the last the output.
Parameters = Sequence[tuple[str, tuple[int, ...]]]

#: A GPU's second-level cache of this size keeps a network's weights from one inference to the next:
#: MobileNetV2 has 14 MB.
_KEEPS_WEIGHTS = 16 << 20


def random_arguments(
    workload: Workload, decision: Any, parameters: Parameters
) -> tuple[list[Array], list[int]]:
    """Return arguments for a candidate, equal for all decisions apart from the packing.

    Parameters
    ----------
    workload : Workload
        The layer.
    decision : object
        Says how weights are packed.
    parameters : sequence of (str, tuple of int)
        The function's.

    Returns
    -------
    arrays : list of ndarray
        One per parameter. Sums of weighted inputs have variance 1; the output is NaN.
    weights : list of int
        Which arrays stay the same from one inference to the next.
    """
    rng = np.random.default_rng(0)

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> Array:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    plain = [normal(shape, np.prod(shape[:-1]) ** -0.5) for shape in workload.weights]
    remaining = iter(operators.pack(workload, plain, decision))
    arrays, weights = [], []
    last = len(parameters) - 1
    for index, (name, shape) in enumerate(parameters):
        step = name.rpartition("_")[0]
        if index == last:
            arrays.append(np.full(shape, np.nan, np.float32))
        elif index == 0 or step in CHANNEL_STEPS | TENSOR_STEPS:
            arrays.append(normal(shape))
        else:
            arrays.append(next(remaining))
        if 0 < index < last and step not in TENSOR_STEPS:
            weights.append(index)
    return arrays, weights


def tolerance(workload: Workload, outputs: int) -> float:
    """Return how far apart two right results may be, as a share of the largest.

    Rounding errors of a float32 sum grow like the root of the number of its terms.
    """
    terms = max(1.0, workload.flops / (2 * outputs))
    return float(16 * np.finfo(np.float32).eps * terms**0.5)


def place_of(target: Target) -> Place:
    """Return where a target's candidates run."""
    if target.gpu is None:
        return Place()
    cache = target.gpu.l2_bytes
    return Place(target.kind, 0 if cache >= _KEEPS_WEIGHTS else 2 * cache)


def measure(
    path: str,
    workload: Workload,
    decision: Any,
    parameters: Parameters,
    reference: Path,
    target: Target,
) -> Measurement | Failure:
    """Load, check and time a candidate on this machine.

    Parameters
    ----------
    path : str
        The library; its function is called `main`.
    workload : Workload
        What it computes.
    decision : object
        How.
    parameters : sequence of (str, tuple of int)
        The function's.
    reference : Path
        See `check`.
    target : Target
        What it is compiled for.
    """
    arguments, weights = random_arguments(workload, decision, parameters)
    allowed = tolerance(workload, arguments[-1].size)
    place = place_of(target)
    return protocol.measure(Path(path), arguments, weights, reference, allowed, place)
