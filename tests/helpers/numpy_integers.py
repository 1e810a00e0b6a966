"""Integer layers by NumPy: operands that meet every bound, and the results that are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy_layers import window_sums

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import (
    OPERANDS,
    Convolution,
    Depthwise,
    Pointwise,
    PointwiseDepthwise,
    Workload,
    quantization_bounds,
)

Array = np.ndarray[Any, Any]
Layer = Pointwise | Depthwise | Convolution
Fused = PointwiseDepthwise

#: Smallest and largest weights: int8 where unsigned data allow -128, int16 from uint8 less zero.
WEIGHTS = {"int8": (-128, 127), "int16": (-255, 255)}


@dataclass(frozen=True)
class Quantization:
    """How a layer's values are quantised.

    Parameters
    ----------
    zero : int
        Zero point of the data, which pads them.
    result_zero : int
        Zero point of the result.
    bounds : tuple of int
        Smallest and largest value of the result, as an absorbed Relu6 tightens them.
    reach : float
        Standard deviation of what is quantised, as a share of a byte's range.
    image_scale : float
        The step of a float image.
    """

    zero: int
    result_zero: int
    bounds: tuple[int, int]
    reach: float = 0.3
    image_scale: float = 1 / 32

    @staticmethod
    def of(dtype: str, zero: int = 7, result_zero: int = 3, **options: Any) -> Quantization:
        """Return one for a type of bytes, whose zero points are counted from its smallest value."""
        limits = np.iinfo(dtype)
        bounds = options.pop("bounds", (0, 255))
        low, high = (int(limits.min) + bound for bound in bounds)
        first = int(limits.min)
        return Quantization(first + zero, first + result_zero, (low, high), **options)


@dataclass(frozen=True)
class Part:
    """What a layer reads apart from its data; a fused layer has one for each of its layers.

    Parameters
    ----------
    workload : Workload
        The layer.
    weight : ndarray
        Weights, as `pack` takes them.
    numbers : tuple of ndarray
        How a float image is quantised, and the value of padding, if there are any.
    operands : tuple of ndarray
        Those of the epilogue.
    """

    workload: Layer
    weight: Array
    numbers: tuple[Array, ...]
    operands: tuple[Array, ...]

    def arguments(self, decision: Decision, index: int, packed: Array) -> list[Array]:
        """Return what the function of a decision takes for the part at some index."""
        kinds = [kind for step in self.workload.epilogue for kind in OPERANDS[step.op]]
        arranged = [
            registry.arrange(decision, operand, index) if kind.extent == "channel" else operand
            for kind, operand in zip(kinds, self.operands, strict=True)
        ]
        return [packed, *self.numbers, *arranged]


@dataclass(frozen=True)
class Problem:
    """A layer with its operands, and the results that are right.

    Parameters
    ----------
    workload : Workload
        The layer.
    data : ndarray
        The input, of the shape that the layer sees.
    parts : tuple of Part
        Weights and operands.
    right : tuple of ndarray
        Two results, of which each value may be either. They differ only next to a tie in an
        addition of quantised values, which may be contracted to a fused multiply-add.
    """

    workload: Workload
    data: Array
    parts: tuple[Part, ...]
    right: tuple[Array, Array]

    def arguments(self, decision: Decision) -> list[Array]:
        """Return what the function of a decision takes before the result, as vectors."""
        packed = registry.pack(decision, [part.weight for part in self.parts])
        arrays = [self.data]
        for index, (part, weight) in enumerate(zip(self.parts, packed, strict=True)):
            arrays += part.arguments(decision, index, weight)
        return [np.ascontiguousarray(array).reshape(-1) for array in arrays]

    def check(self, result: Array) -> None:
        """Compare a result with the right ones, to the bit."""
        first, second = self.right
        result = result.reshape(first.shape)
        assert result.dtype == first.dtype
        wrong = (result != first) & (result != second)
        assert not wrong.any(), (
            f"{self.workload}: {wrong.mean():.1%} wrong, the first at "
            f"{tuple(map(int, np.argwhere(wrong)[0]))}: {result[wrong][0]} is not {first[wrong][0]}"
        )


def problem(
    workload: Layer | Fused,
    dtype: str,
    quantization: Quantization | None = None,
    seed: int = 0,
) -> Problem:
    """Return a layer with random operands.

    Parameters
    ----------
    workload : Pointwise, Depthwise, Convolution or PointwiseDepthwise
        An integer layer.
    dtype : str
        The type of the network's bytes.
    quantization : Quantization, optional
        Default: zero points near the smallest value, all bytes.
    seed : int
        Seed of the operands.
    """
    how = quantization or Quantization.of(dtype)
    rng = np.random.default_rng(seed)
    if not isinstance(workload, PointwiseDepthwise):
        data, values, numbers = _data(workload, dtype, how, rng)
        part, right = _part(workload, dtype, how, rng, values, numbers)
        return Problem(workload, data, (part,), right)
    first, second = workload.pointwise, workload.depthwise
    data, values, _ = _data(first, dtype, how, rng)
    product, (between, _) = _part(first, dtype, how, rng, values, ())
    image = between.reshape(second.batch, second.height, second.width, second.channels)
    # What is between has the zero point of the product's result.
    inner = replace(how, zero=how.result_zero)
    values, numbers = image.astype(np.int64), _padding(second, dtype, inner)
    last, right = _part(second, dtype, inner, rng, values, numbers)
    return Problem(workload, data, (product, last), right)


def _part(
    workload: Layer,
    dtype: str,
    how: Quantization,
    rng: np.random.Generator,
    values: Array,
    numbers: tuple[Array, ...],
) -> tuple[Part, tuple[Array, Array]]:
    """Return a layer's weights and operands, and both results that are right for some data."""
    weight = _weights(workload.weights[0], workload.types.weights, dtype, rng)
    sums = _sums(workload, values, weight, how.zero)
    right, operands = _epilogue(workload, sums, dtype, how, rng)
    return Part(workload, weight, numbers, tuple(operands)), right


def _weights(shape: Sequence[int], kind: str, dtype: str, rng: np.random.Generator) -> Array:
    """Return weights of which a fourth are as large or small as they may be."""
    low, high = WEIGHTS[kind]
    # The pass widens -128 where data are signed.
    low += kind == "int8" and dtype == "int8"
    values = rng.integers(low, high, shape, endpoint=True)
    extreme = rng.choice([low, -127, high], shape)
    return np.where(rng.random(shape) < 0.25, extreme, values).astype(kind)


def _data(
    workload: Layer,
    dtype: str,
    how: Quantization,
    rng: np.random.Generator,
) -> tuple[Array, Array, tuple[Array, ...]]:
    """Return the input as it is read, the bytes that it stands for, and numbers of both."""
    match workload:
        case Pointwise():
            shape: tuple[int, ...] = (workload.pixels, workload.inputs)
        case Depthwise():
            shape = (workload.batch, workload.height, workload.width, workload.channels)
        case Convolution():
            shape = (workload.batch, workload.height, workload.width, workload.inputs)
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, shape, endpoint=True)
    values = np.where(rng.random(shape) < 0.1, rng.choice([limits.min, limits.max], shape), values)
    zero = _padding(workload, dtype, how)
    if workload.types.data != "float32":
        return values.astype(dtype), values, zero
    # Halves of a step, which are ties or next to one, some of them beyond the range.
    step = np.float32(how.image_scale)
    halves = rng.integers(2 * limits.min - 100, 2 * limits.max + 100, shape) - 2 * how.zero
    image = (halves * (step / 2)).astype(np.float32)
    aside = rng.choice(np.float32([-np.inf, 0, np.inf]), shape)
    image = np.where(aside == 0, image, np.nextafter(image, aside)).astype(np.float32)
    bounds = quantization_bounds(int(limits.min), int(limits.max), how.zero)
    whole = np.rint(np.clip(image / step, np.float32(bounds[0]), np.float32(bounds[1])))
    read = image.transpose(0, 3, 1, 2) if getattr(workload, "reads_nchw", False) else image
    numbers = np.array([step, *bounds], np.float32)
    return read, whole.astype(np.int64) + how.zero, (numbers, *zero)


def _padding(workload: Layer, dtype: str, how: Quantization) -> tuple[Array, ...]:
    """Return the value of a layer's padding, if it has any."""
    window = getattr(workload, "window", None)
    return (np.array([how.zero], dtype),) if window and any(window.padding) else ()


def _sums(workload: Layer, values: Array, weight: Array, zero: int) -> Array:
    """Return the sums of products, where padding has the value of the zero point."""
    if isinstance(workload, Pointwise):
        return np.asarray(values.astype(np.int64) @ weight.astype(np.int64))
    # Doubles hold these integers.
    products = window_sums(values - zero, weight, workload).astype(np.int64)
    axes = (0, 1) if isinstance(workload, Depthwise) else (0, 1, 2)
    return products + zero * weight.astype(np.int64).sum(axes)


def _epilogue(
    workload: Workload, sums: Array, dtype: str, how: Quantization, rng: np.random.Generator
) -> tuple[tuple[Array, Array], list[Array]]:
    """Return both results that are right, and the operands."""
    channels, limits = sums.shape[-1], np.iinfo(dtype)
    bounds = np.array(quantization_bounds(*how.bounds, how.result_zero), np.float32)
    operands: list[Array] = []
    first = second = sums
    for step in workload.epilogue:
        match step.op:
            case "add_channel":
                size = int(np.abs(sums).max()) // 4 + 10
                operands.append(rng.integers(-size, size, channels).astype(np.int32))
                first = second = first + operands[-1]
            case "requantize":
                operands += [_scales(first, how.reach, rng), bounds]
                real = first.astype(np.float32) * operands[-2]
                first = second = _rounded(real, bounds, how.result_zero)
            case "dequantize":
                operands.append(_scales(first, how.reach, rng))
                first = second = first.astype(np.float32) * operands[-1]
            case "add_quantized" | "add_quantized_second":
                other = rng.integers(limits.min, limits.max, sums.shape, endpoint=True)
                numbers = np.array([0.7213, 0.3941, -2.217, *bounds], np.float32)
                operands += [other.astype(dtype), numbers]
                pair = (first, other) if step.op == "add_quantized" else (other, first)
                terms = [values * float(n) for values, n in zip(pair, numbers, strict=False)]
                terms.append(np.asarray(float(numbers[2])))
                # Each of three roundings is by half a unit in the last place of the largest term.
                error = 2 * np.finfo(np.float32).eps * sum(map(np.abs, terms))
                first, second = (
                    _rounded(sum(terms) + shift, bounds, how.result_zero)
                    for shift in (-error, error)
                )
                assert (first != second).mean() < 0.01
            case "lookup":
                table = rng.integers(limits.min, limits.max, 256, endpoint=True).astype(dtype)
                operands.append(table)
                first, second = (table[values & 255].astype(np.int64) for values in (first, second))
    result = np.dtype(workload.types.result)
    return (first.astype(result), second.astype(result)), operands


def _scales(sums: Array, reach: float, rng: np.random.Generator) -> Array:
    """Return a scale per channel; half of them are powers of two, which makes ties."""
    scale = 256 * reach / (np.std(sums) + np.abs(sums).mean() / 4 + 1)
    scales = scale * rng.uniform(0.5, 2, sums.shape[-1])
    powers = 2.0 ** np.rint(np.log2(scales))
    return np.where(rng.random(scales.shape) < 0.5, powers, scales).astype(np.float32)


def _rounded(values: Array, bounds: Array, zero: int) -> Array:
    """Quantise values: half to even, within the bounds."""
    return np.rint(np.clip(values, bounds[0], bounds[1])).astype(np.int64) + zero
