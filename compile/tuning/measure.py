"""Creates the arguments of a candidate, and measures it on this machine."""

from __future__ import annotations

import math
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
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.gpu.gates import GATE
from mobilenet_tvm.schedules.stages import is_per_channel, operand_name
from mobilenet_tvm.schedules.workloads import (
    OPERANDS,
    TENSOR_STEPS,
    Step,
    Workload,
    quantization_bounds,
)
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

#: Names, shapes and types of a function's parameters: first the data, last the output.
Parameters = Sequence[tuple[str, tuple[int, ...], str]]

#: A second-level cache of at least this size keeps a network's weights from one inference to the
#: next: MobileNetV2 has 14 MB.
_MIN_BYTES_FOR_WEIGHTS = 16 << 20


#: Types of quantised values, and names of the parameters that say how they are quantised.
BYTE_TYPES = ("uint8", "int8")
NUMBERS = ("numbers", "zero")
QUANTIZED = (
    "requantize",
    "requantize_numbers",
    "add_quantized_numbers",
    "add_quantized_second_numbers",
    "dequantize",
)
#: Names of random operands, without the step's number.
STEPS = frozenset(
    operand_name(Step(op), operand, 0).rpartition("_")[0]
    for op, operands in OPERANDS.items()
    for operand in operands
)

#: Steps of rounding by which two results of an integer layer may differ, as a share of a byte: a
#: quantised addition may be rounded once or twice.
_INTEGER_TOLERANCE = 1.5 / 255


def parameters_of(func: tirx.PrimFunc) -> Parameters:
    """Return the parameters of a function."""
    return [(p.name, tuple(map(int, p.ty.shape)), str(p.ty.dtype)) for p in func.params]


def random_arguments(
    workload: Workload, decision: Decision, parameters: Parameters
) -> tuple[list[Array], list[int]]:
    """Return arguments for a candidate, the same for all decisions except for the packing.

    Parameters
    ----------
    workload : Workload
        The layer.
    decision : Decision
        Determines how weights are packed.
    parameters : sequence of (str, tuple of int, str)
        Parameters of the function.

    Returns
    -------
    arrays : list of ndarray
        One per parameter, rounded to the workload's type. Sums of weighted inputs have variance 1;
        the output is NaN.
    weights : list of int
        Indices of the arrays that stay the same from one inference to the next.
    """
    plain, operands = random_operands(workload, parameters)
    remaining = iter(registry.pack(decision, plain))
    # Operands follow the weights of their part of a fused layer.
    part = -1
    arrays, weights = [], []
    last = len(parameters) - 1
    for index, ((name, _, dtype), operand) in enumerate(zip(parameters, operands, strict=True)):
        if operand is None:
            arrays.append(next(remaining).astype(dtype))
            part += 1
        elif workload.types.integer and is_per_channel(name):
            # Each decision pads and orders these as it likes; what they stand for is the same.
            arrays.append(registry.arrange(decision, operand, part))
        else:
            arrays.append(operand)
        if 0 < index < last and name != GATE and _step_of(name) not in TENSOR_STEPS:
            weights.append(index)
    return arrays, weights


def random_operands(
    workload: Workload, parameters: Parameters
) -> tuple[list[Array], list[Array | None]]:
    """Return what a layer reads, before a decision packs and arranges it.

    Parameters
    ----------
    workload : Workload
        The layer.
    parameters : sequence of (str, tuple of int, str)
        Parameters of a function that computes it.

    Returns
    -------
    weights : list of ndarray
        As `pack` takes them.
    operands : list of ndarray or None
        For each parameter; None for packed weights. The output is NaN, or 0 for integers.
    """
    rng = np.random.default_rng(0)
    integer = workload.types.integer

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> Array:
        values = rng.standard_normal(shape, np.float32) * np.float32(scale)
        return values.astype(workload.dtype)

    def bytes_of(shape: tuple[int, ...], dtype: str) -> Array:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)

    if integer:
        plain = [
            rng.integers(-127, 127, shape, workload.types.weights) for shape in workload.weights
        ]
    else:
        plain = [normal(shape, np.prod(shape[:-1]) ** -0.5) for shape in workload.weights]
    operands: list[Array | None] = []
    last = len(parameters) - 1
    for index, (name, shape, dtype) in enumerate(parameters):
        step = _step_of(name)
        # A decision pads these.
        size = workload.output_shape[-1:] if integer and is_per_channel(name) else shape
        if index == last:
            operands.append(np.full(shape, np.nan if dtype.startswith("float") else 0, dtype))
        elif name == GATE:
            operands.append(random_gates(shape, dtype))
        elif name in NUMBERS or step in QUANTIZED:
            operands.append(_quantization(workload, name, size, dtype))
        elif integer and is_per_channel(name):
            operands.append(rng.integers(-1000, 1000, size, np.int32))
        elif integer and dtype in BYTE_TYPES and (index == 0 or step in STEPS):
            operands.append(bytes_of(shape, dtype))
        elif index == 0 or step in STEPS:
            values = rng.standard_normal(shape, np.float32) if integer else normal(shape)
            operands.append(values.astype(dtype))
        else:
            operands.append(None)
    return plain, operands


def _step_of(parameter: str) -> str:
    """Return the step, or its numbers, of which a parameter is an operand."""
    return parameter.rpartition("_")[0]


def _quantization(workload: Workload, name: str, shape: tuple[int, ...], dtype: str) -> Array:
    """Return scales and bounds with which sums of random bytes fill most of a byte's range."""
    result = workload.types.result if workload.types.result in BYTE_TYPES else "uint8"
    limits = np.iinfo(result)
    middle = (int(limits.min) + int(limits.max) + 1) // 2
    bounds = quantization_bounds(int(limits.min), int(limits.max), middle)
    if name == "numbers":
        values: Any = (0.02, *bounds)
    elif name == "zero":
        values = [middle]
    elif name.startswith("add_quantized"):
        values = (0.6, 0.6, -1.2 * middle, *bounds)
    elif name.startswith("requantize_numbers"):
        values = bounds
    else:
        terms = max(1.0, workload.flops / (2 * math.prod(workload.output_shape)))
        values = np.full(shape, 50 / (100 * 70 * terms**0.5))
    return np.resize(np.asarray(values, np.float64), shape).astype(dtype)


def random_gates(shape: tuple[int, ...], dtype: str) -> Array:
    """Return gates [images, inputs] from their own generator, so other arguments do not change."""
    return np.random.default_rng(1).random(shape, np.float32).astype(dtype)


def tolerance(workload: Workload, outputs: int) -> float:
    """Return how much two correct results may differ, as a share of the largest value.

    The rounding error of a sum grows with the square root of the number of terms. In float16, only
    a few terms are accumulated before they are added to float32 sums.
    """
    if workload.types.integer:
        return _INTEGER_TOLERANCE
    terms = max(1.0, workload.flops / (2 * outputs))
    factor = 1 if workload.dtype == "float16" else 16
    return float(factor * np.finfo(workload.dtype).eps * terms**0.5)


def place_of(target: Target) -> Place:
    """Return where the candidates of a target run."""
    if target.gpu is None:
        return Place()
    cache = target.gpu.l2_bytes
    return Place(target.kind, 0 if cache >= _MIN_BYTES_FOR_WEIGHTS else 2 * cache)


def measure(
    path: str,
    workload: Workload,
    decision: Decision,
    parameters: Parameters,
    reference: Path,
    target: Target,
) -> Measurement | Failure:
    """Load, check and time a candidate on this machine.

    Parameters
    ----------
    path : str
        The library, with one function named `main`.
    workload : Workload
        What it computes.
    decision : Decision
        How it is computed.
    parameters : sequence of (str, tuple of int, str)
        Parameters of the function.
    reference : Path
        As for `check`.
    target : Target
        The target that it is compiled for.
    """
    arguments, weights = random_arguments(workload, decision, parameters)
    allowed = tolerance(workload, arguments[-1].size)
    place = place_of(target)
    return measure_candidate(Path(path), arguments, weights, reference, allowed, place)
