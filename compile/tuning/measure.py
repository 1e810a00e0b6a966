"""Makes arguments for one candidate, and measures it on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm import tirx

from mobilenet_tvm.runtime.measure import (
    Array,
    Failure,
    Measurement,
    Place,
    check,
    measure_candidate,
    time_until_stable,
)
from mobilenet_tvm.schedules import registry as operators
from mobilenet_tvm.schedules.gpu.gates import GATE
from mobilenet_tvm.schedules.workloads import CHANNEL_STEPS, TENSOR_STEPS, Workload
from mobilenet_tvm.targets.target import Target

__all__ = [
    "Failure",
    "Measurement",
    "Parameters",
    "check",
    "measure",
    "parameters_of",
    "place_of",
    "random_arguments",
    "random_gates",
    "time_until_stable",
    "tolerance",
]

#: Names, shapes and types of a function's parameters; the first is the data, the last the output.
Parameters = Sequence[tuple[str, tuple[int, ...], str]]

#: A GPU's second-level cache of this size keeps a network's weights from one inference to the next:
#: MobileNetV2 has 14 MB.
_KEEPS_WEIGHTS = 16 << 20


def parameters_of(func: tirx.PrimFunc) -> Parameters:
    """Return a function's parameters, as the others here take them."""
    return [(p.name, tuple(map(int, p.ty.shape)), str(p.ty.dtype)) for p in func.params]


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
    parameters : sequence of (str, tuple of int, str)
        The function's.

    Returns
    -------
    arrays : list of ndarray
        One per parameter; what the workload's type can hold. Sums of weighted inputs have variance
        1; the output is NaN.
    weights : list of int
        Which arrays stay the same from one inference to the next.
    """
    rng = np.random.default_rng(0)

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> Array:
        values = rng.standard_normal(shape, np.float32) * np.float32(scale)
        return values.astype(workload.dtype)

    plain = [normal(shape, np.prod(shape[:-1]) ** -0.5) for shape in workload.weights]
    remaining = iter(operators.pack(workload, plain, decision))
    arrays, weights = [], []
    last = len(parameters) - 1
    for index, (name, shape, dtype) in enumerate(parameters):
        step = name.rpartition("_")[0]
        if index == last:
            arrays.append(np.full(shape, np.nan, dtype))
        elif name == GATE:
            arrays.append(random_gates(shape, dtype))
        elif index == 0 or step in CHANNEL_STEPS | TENSOR_STEPS:
            arrays.append(normal(shape).astype(dtype))
        else:
            arrays.append(next(remaining).astype(dtype))
        if 0 < index < last and name != GATE and step not in TENSOR_STEPS:
            weights.append(index)
    return arrays, weights


def random_gates(shape: tuple[int, ...], dtype: str) -> Array:
    """Return gates [pictures, inputs], drawn apart: all else is as in a layer without gates."""
    return np.random.default_rng(1).random(shape, np.float32).astype(dtype)


def tolerance(workload: Workload, outputs: int) -> float:
    """Return how far apart two right results may be, as a share of the largest.

    Rounding errors of a sum grow like the root of the number of its terms. In float16 no more than
    a few terms are added up before they come to float32 ones.
    """
    terms = max(1.0, workload.flops / (2 * outputs))
    factor = 1 if workload.dtype == "float16" else 16
    return float(factor * np.finfo(workload.dtype).eps * terms**0.5)


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
    parameters : sequence of (str, tuple of int, str)
        The function's.
    reference : Path
        See `check`.
    target : Target
        What it is compiled for.
    """
    arguments, weights = random_arguments(workload, decision, parameters)
    allowed = tolerance(workload, arguments[-1].size)
    place = place_of(target)
    return measure_candidate(Path(path), arguments, weights, reference, allowed, place)
