"""What layers compute, by NumPy in double precision: the reference of the kernels' tests."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from mobilenet_tvm.schedules.workloads import (
    OPERANDS,
    TENSOR_STEPS,
    Convolution,
    Depthwise,
    Epilogue,
    Step,
)

Array = np.ndarray[Any, Any]

BIAS, RELU, CLIP = Step("add_channel"), Step("relu"), Step("clip", (0.0, 6.0))


def normal(*shape: int, seed: int = 0) -> Array:
    """Return standard normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_epilogue(
    value: Array, epilogue: Epilogue, dtype: str = "float32"
) -> tuple[Array, list[Array]]:
    """Apply an epilogue by NumPy, in double precision; return its operands as well."""
    operands: list[Array] = []
    x = value.astype(np.float64)
    for index, step in enumerate(epilogue):
        operand = np.zeros(0)
        if OPERANDS[step.op]:
            shape = x.shape if step.op in TENSOR_STEPS else x.shape[-1:]
            operands.append(normal(*shape, seed=10 + index).astype(dtype))
            operand = operands[-1]
        match step.op:
            case "add" | "add_channel":
                x = x + operand
            case "mul" | "mul_channel":
                x = x * operand
            case "relu":
                x = np.maximum(x, 0)
            case "clip":
                x = np.clip(x, *step.values)
            case "hard_sigmoid":
                x = np.clip(x / 6 + 0.5, 0, 1)
            case "hard_swish":
                x = x * np.clip(x + 3, 0, 6) / 6
            case "sigmoid":
                x = 1 / (1 + np.exp(-x))
            case "silu":
                x = x / (1 + np.exp(-x))
            case "gelu":
                x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
            case "tanh":
                x = np.tanh(x)
            case "elu":
                x = np.where(x < 0, np.expm1(np.minimum(x, 0)), x)
            case "softplus":
                x = np.logaddexp(0, x)
            case "mish":
                x = x * np.tanh(np.logaddexp(0, x))
            case "leaky_relu":
                x = np.where(x < 0, step.values[0] * x, x)
            case "prelu":
                x = np.where(x < 0, operand * x, x)
    return x, operands


def window_sums(data: Array, weight: Array, workload: Depthwise | Convolution) -> Array:
    """Convolve NHWC data by NumPy; weight is [height, width, inputs, outputs] or depthwise."""
    groups = workload.groups if isinstance(workload, Convolution) else 1
    if groups > 1:
        parts = zip(np.split(data, groups, axis=-1), np.split(weight, groups, axis=-1), strict=True)
        whole = dataclasses.replace(workload, groups=1)
        return np.concatenate([window_sums(*part, whole) for part in parts], axis=-1)
    window = workload.window
    top, left, bottom, right = window.padding
    padded = np.pad(data.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    (rows, columns), (down, across) = workload.output, window.stride
    total: Any = 0.0
    for y, x in itertools.product(*map(range, window.kernel)):
        top, left = y * window.dilation[0], x * window.dilation[1]
        stop_y, stop_x = top + (rows - 1) * down + 1, left + (columns - 1) * across + 1
        taken = padded[:, top:stop_y:down, left:stop_x:across]
        tap = weight[y, x].astype(np.float64)
        total = total + (taken * tap if tap.ndim == 1 else taken @ tap)
    return np.asarray(total)


def close(result: Array, expected: Array) -> None:
    """Compare results of float32 with a reference."""
    np.testing.assert_allclose(result, expected, atol=2e-6 * max(1.0, np.abs(expected).max()))
