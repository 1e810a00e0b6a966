"""What integer layers compute, by NumPy: whether a board computes them right."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.measure import Array
from mobilenet_tvm.schedules.stages import operand_name
from mobilenet_tvm.schedules.workloads import (
    OPERANDS,
    Convolution,
    Depthwise,
    Pointwise,
    Step,
    Workload,
)
from mobilenet_tvm.schedules.workloads.epilogue import MAGIC, ROUNDING


def integer_result(workload: Workload, weight: Array, operands: Mapping[str, Array]) -> Array:
    """Return the result of an integer layer.

    Parameters
    ----------
    workload : Workload
        A pointwise, depthwise or stem layer.
    weight : ndarray
        As `pack` takes it.
    operands : mapping of str to ndarray
        The other arguments by the names of the function's parameters: `data`; `numbers`, if they
        quantise it; `zero`, with which it is padded; those of the epilogue.

    Returns
    -------
    ndarray
        [..., outputs], of the result's type.
    """
    value: Any = _sums(workload, weight, operands)
    for index, step in enumerate(workload.epilogue):
        names = [operand_name(step, operand, index) for operand in OPERANDS[step.op]]
        value = _apply(step, value, [operands[name] for name in names])
    return np.asarray(value.astype(workload.types.result))


def _sums(workload: Workload, weight: Array, operands: Mapping[str, Array]) -> Array:
    """Return a layer's sums of products as int64."""
    data = operands["data"]
    if isinstance(workload, Pointwise):
        matrix = data.reshape(workload.pixels, workload.inputs).astype(np.int64)
        return np.asarray(matrix @ weight.astype(np.int64))
    assert isinstance(workload, Depthwise | Convolution)  # noqa: S101
    depthwise = isinstance(workload, Depthwise)
    channels = workload.channels if isinstance(workload, Depthwise) else workload.inputs
    size = workload.batch, workload.height, workload.width, channels
    if isinstance(workload, Convolution) and workload.reads_nchw:
        data = data.reshape(size[0], channels, *size[1:3]).transpose(0, 2, 3, 1)
    if "numbers" in operands:
        step, *bounds = operands["numbers"]
        data = _rounded(data / step, np.asarray(bounds))
    data = data.reshape(size).astype(np.int64)
    top, left, bottom, right = workload.window.padding
    around = (0, 0), (top, bottom), (left, right), (0, 0)
    zero = int(operands["zero"][0]) if "zero" in operands else 0
    image = np.pad(data, around, constant_values=zero)
    (rows, columns), (down, across) = workload.output, workload.window.stride
    total: Any = 0
    for y, x in itertools.product(*map(range, workload.window.kernel)):
        ends = y + (rows - 1) * down + 1, x + (columns - 1) * across + 1
        pixels, tap = image[:, y : ends[0] : down, x : ends[1] : across], weight[y, x]
        tap = tap.astype(np.int64)
        total = total + (pixels * tap if depthwise else pixels @ tap)
    return np.asarray(total)


def _apply(step: Step, value: Any, operands: list[Any]) -> Any:
    """Return what a step makes of a value."""
    if step.op in ROUNDING:
        numbers, bounds = operands[-1][:-3], operands[-1][-3:]
        if step.op == "requantize":
            return _rounded(value.astype(np.float32) * operands[0], bounds)
        pair = value, operands[0].reshape(value.shape).astype(np.int64)
        first, second = pair if step.op == "add_quantized" else pair[::-1]
        return _rounded(first * numbers[0] + second * numbers[1] + numbers[2], bounds)
    match step.op:
        case "add_channel":
            return value + operands[0]
        case "lookup":
            return np.asarray(operands[0][value & 255].astype(np.int64))
        case "dequantize":
            return value.astype(np.float32) * operands[0]
    raise ValueError(f"no step {step.op} of integer layers")


def _rounded(value: Any, bounds: Any) -> Any:
    """Quantise values; `bounds` are the values of `quantization_bounds`."""
    low, high, magic = map(float, bounds)
    return np.rint(np.clip(value, low, high)).astype(np.int64) + int(MAGIC - magic)
