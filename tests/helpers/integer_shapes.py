"""Integer layers for tests: sizes at the edges, epilogues, and those with partial vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from integer_machines import Machine
from numpy_integers import Layer

from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    Pointwise,
    PointwiseDepthwise,
    Step,
    Types,
    Window,
)

QUANTIZED = ("add_channel", "requantize")
#: Every epilogue that integer layers have, by their steps.
EPILOGUES = (
    (),
    ("add_channel",),
    ("requantize",),
    QUANTIZED,
    (*QUANTIZED, "add_quantized"),
    (*QUANTIZED, "add_quantized_second"),
    (*QUANTIZED, "lookup"),
    (*QUANTIZED, "add_quantized", "lookup"),
    ("dequantize",),
    ("add_channel", "dequantize"),
)
WEIGHTS = pytest.mark.parametrize(
    "weights", ["int8", pytest.param("int16", marks=pytest.mark.full)], indirect=True
)
SAME = (1, 1, 1, 1)


def layer(
    shape: Layer, machine: Machine, steps: Sequence[str] = QUANTIZED, weights: str = "int8"
) -> Layer:
    """Return a layer of the shape of another, with a machine's types; a float image stays one."""
    result = machine.dtype
    if not {"requantize", "add_quantized"} & {*steps}:
        result = "float32" if "dequantize" in steps else "int32"
    image = isinstance(shape, Convolution) and shape.types.data == "float32"
    data = "float32" if image else machine.dtype
    types = Types(data, weights, "int32", result)
    return replace(shape, epilogue=tuple(map(Step, steps)), types=types)


def fused(
    shape: tuple[int, Depthwise],
    machine: Machine,
    steps: Sequence[str] = QUANTIZED,
    between: Sequence[str] = QUANTIZED,
    weights: str = "int8",
) -> PointwiseDepthwise:
    """Return a pointwise layer with some inputs that is fused with the depthwise one behind it."""
    inputs, second = shape
    pixels = second.batch * second.height * second.width
    first = layer(Pointwise(pixels, inputs, second.channels), machine, between, weights)
    last = layer(second, machine, steps, weights)
    assert isinstance(first, Pointwise)
    assert isinstance(last, Depthwise)
    return PointwiseDepthwise(first, last)


def depthwise(
    size: tuple[int, int, int, int],
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = SAME,
) -> Depthwise:
    return Depthwise(*size, Window(kernel, stride, padding))


def stem(
    image: str,
    size: tuple[int, int, int, int, int],
    kernel: int = 3,
    stride: int = 2,
    padding: tuple[int, int, int, int] = SAME,
) -> Convolution:
    """Return a stem that reads `float32 nchw`, `float32 nhwc` or `bytes nhwc`."""
    types = Types.of("float32" if image.startswith("float32") else "uint8")
    window = Window((kernel, kernel), (stride, stride), padding)
    return Convolution(*size, window, image.endswith("nchw"), (), types)


def few(shapes: Sequence[Any], every: int = 2) -> list[Any]:
    """Return layers as parameters; the quick tier has one of several."""
    return [
        pytest.param(shape, id=str(shape), marks=pytest.mark.full if number % every else ())
        for number, shape in enumerate(shapes)
    ]


POINTWISE = [
    Pointwise(7, 5, 3),
    Pointwise(1, 3, 17),  # one pixel: dense
    Pointwise(1, 1, 1),
    Pointwise(1, 100, 71),
    Pointwise(50, 6, 40),
    Pointwise(13, 33, 100),
    Pointwise(2, 4, 16),
    Pointwise(49, 96, 24),
    Pointwise(98, 40, 8),
    Pointwise(17, 71, 128),
]
DEPTHWISE = [
    depthwise((1, 5, 5, 1)),
    depthwise((1, 7, 7, 3), stride=(2, 2)),
    depthwise((2, 7, 9, 17), stride=(2, 2), padding=(0, 0, 1, 1)),  # TensorFlow's padding
    depthwise((1, 1, 1, 8)),  # all but one tap is padding
    depthwise((1, 7, 7, 24), (5, 5), padding=(2, 2, 2, 2)),
    depthwise((1, 6, 6, 40), (5, 5), (2, 2), (1, 2, 2, 1)),
    depthwise((2, 3, 4, 71)),
    depthwise((1, 8, 8, 100), padding=(0, 0, 0, 0)),
    depthwise((1, 9, 4, 64), (3, 5), (2, 1), (1, 2, 0, 2)),
    depthwise((1, 1, 1, 17), (5, 5), (2, 2), (2, 2, 2, 2)),
    depthwise((3, 4, 6, 160)),
    depthwise((1, 6, 6, 12), (2, 2), (2, 2), (0, 0, 0, 0)),
    depthwise((1, 8, 8, 5), (7, 7), padding=(3, 3, 3, 3)),
]
#: Inputs of pointwise layers, and the depthwise layers that read their results.
FUSED = [
    (5, depthwise((1, 7, 9, 24), stride=(2, 2), padding=(0, 0, 1, 1))),
    (8, depthwise((2, 6, 5, 100))),
    (33, depthwise((1, 12, 3, 17), (5, 5), padding=(2, 2, 2, 2))),
    (16, depthwise((1, 9, 9, 71), (5, 5), (2, 2), (2, 2, 2, 2))),
    (3, depthwise((1, 8, 8, 3), padding=(0, 0, 0, 0))),
    (24, depthwise((1, 14, 14, 144))),
    (1, depthwise((1, 1, 1, 8))),
    (40, depthwise((3, 8, 7, 64), (3, 5), (2, 1), (1, 2, 0, 2))),
    (96, depthwise((1, 7, 7, 160), stride=(2, 2))),
]
STEMS = [
    stem("float32 nchw", (1, 15, 17, 3, 8), padding=(0, 0, 1, 1)),
    stem("float32 nhwc", (2, 9, 9, 3, 24)),
    stem("bytes nhwc", (1, 16, 40, 3, 16)),
    stem("float32 nchw", (2, 35, 37, 1, 17)),  # grey pictures, several vectors of columns
    stem("bytes nhwc", (1, 1, 1, 3, 40)),
    stem("bytes nhwc", (1, 7, 7, 4, 71), stride=1, padding=(0, 0, 0, 0)),
    stem("float32 nhwc", (1, 8, 70, 2, 3), 5, 2, (1, 2, 2, 1)),
    stem("bytes nhwc", (1, 10, 10, 6, 100), 2, 2, (0, 0, 0, 0)),
    stem("float32 nchw", (1, 12, 12, 3, 32), 7, 2, (3, 3, 3, 3)),
    stem("bytes nhwc", (1, 9, 11, 40, 24), stride=1),  # no image: many channels
    stem("bytes nhwc", (2, 7, 7, 33, 17), 1, 2, (0, 0, 0, 0)),
]

#: Layers whose data and result end at a page's end, and whose last vector is not whole.
PARTIAL = [
    Pointwise(64, 5, 17),
    Pointwise(64, 33, 3),
    Pointwise(64, 10, 71),
    Pointwise(128, 1, 1),
    depthwise((1, 8, 8, 17)),
    depthwise((1, 8, 8, 3)),
    depthwise((1, 16, 16, 24), stride=(2, 2), padding=(0, 0, 1, 1)),
    depthwise((2, 16, 16, 71), (5, 5), (2, 2), (2, 2, 2, 2)),
    depthwise((1, 10, 10, 144), padding=(0, 0, 0, 0)),
    stem("float32 nchw", (1, 16, 16, 3, 17)),
    stem("float32 nhwc", (1, 16, 16, 3, 40)),
    stem("bytes nhwc", (1, 16, 16, 3, 23)),
    stem("bytes nhwc", (1, 16, 16, 1, 5)),
]
