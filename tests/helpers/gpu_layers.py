"""Compares a layer by a GPU schedule with NumPy in double precision.

Kernels for Mali run on an OpenCL device, those for CUDA on the CPU.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from cuda_on_cpu import call_on_cpu
from numpy_layers import BIAS, CLIP, close, normal, window_sums, with_epilogue
from opencl_kernels import call

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
)
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

MALI, H100 = get_target("mali:x86"), get_target("cuda:sm_90")

#: One of each kind, in sizes of MobileNetV2 and V3.
LAYERS = [
    Convolution(1, 224, 224, 3, 32, Window((3, 3), (2, 2), (1, 1, 1, 1)), True, (BIAS, CLIP)),
    Convolution(1, 28, 28, 128, 128, Window((3, 3), (1, 1), (1, 1, 1, 1)), False, (BIAS, CLIP)),
    Pointwise(12544, 32, 16, (BIAS,)),
    Pointwise(3136, 24, 144, (BIAS, CLIP)),
    Pointwise(196, 96, 576, (BIAS, CLIP)),
    Pointwise(49, 960, 160, (BIAS, Step("add"))),
    Pointwise(1, 1280, 1000, (BIAS,)),
    Depthwise(1, 112, 112, 96, Window((3, 3), (2, 2), (1, 1, 1, 1)), (BIAS, CLIP)),
    Depthwise(1, 14, 14, 384, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS, CLIP)),
    Depthwise(1, 7, 7, 960, Window((5, 5), (1, 1), (2, 2, 2, 2)), (BIAS, Step("hard_swish"))),
    GlobalPool(1, 49, 1280),
]
HALF = [workload.in_type("float16") for workload in LAYERS]

#: Convolutions at the edges: of pictures, channels, windows, steps between taps, and groups.
CONVOLUTIONS = (
    "conv2d 2x7x9x17->24 k3x3 s2x2 p0,0,1,1 nhwc add_channel clip(0,6) add",
    "conv2d 1x1x1x16->40 k3x3 s1x1 p1,1,1,1 nhwc",
    "conv2d 1x9x8x16->40 k5x3 s1x2 p2,1,2,1 d1x2 nhwc add_channel",
    "conv2d 1x12x11x10->33 k3x3 s1x1 p2,2,2,2 d2x2 nhwc add_channel hard_swish",
    "conv2d 1x10x11x16->64 k3x3 s1x1 p1,1,1,1 g2 nhwc add_channel add",
    "conv2d 1x6x6x9->72 k3x3 s2x2 p1,1,1,1 g9 nhwc add_channel",
    "conv2d 1x20x20x12->16 k1x7 s1x1 p0,3,0,3 nhwc add_channel mul",
    "conv2d 3x13x13x20->100 k3x3 s1x1 p0,0,0,0 nhwc add_channel",
)

#: Layers whose data gates multiply.
GATED = (
    Pointwise(49, 64, 24, (Step("add_channel"), Step("add")), gates=1),
    Pointwise(26, 6, 11, (), gates=2),  # tiles with pixels of two pictures, no whole vector
    Pointwise(3, 80, 16, (Step("add_channel"),), gates=3),  # pictures of one pixel
)

#: Roundings of results of a layer in float16: of products, of sums of some, of what is stored.
ROUNDINGS = 4


def gpu(name: str) -> Gpu:
    """Return the GPU of a target."""
    found = get_target(name).gpu
    assert found is not None
    return found


def check(workload: Workload, decision: Any = None, target: Target = MALI) -> None:
    """Compare a layer with NumPy."""
    decision = decision or registry.default(workload, target)
    weights = [
        (normal(*shape, seed=seed) / np.float32(np.prod(shape[:-1]) ** 0.5)).astype(workload.dtype)
        for seed, shape in enumerate(workload.weights, 1)
    ]
    data, expected, operands = _reference(workload, weights)
    func = registry.build(workload, decision, target)
    packed = registry.pack(decision, weights)
    arrays: list[Array] = []
    for weight, read in itertools.zip_longest(packed, operands):
        arrays += [*([] if weight is None else [weight]), *read]
    stored = workload.types.result
    run = call_on_cpu if target.kind == "cuda" else call
    result = run(func, target, expected.shape, data, *arrays, dtype=stored)
    assert result.dtype == stored
    if workload.dtype == "float32":
        close(result, expected)
    else:
        largest = np.abs(expected).max()
        unit = float(np.finfo(np.float16).eps) / 2
        np.testing.assert_allclose(result, expected, atol=ROUNDINGS * unit * max(1.0, largest))


def _reference(workload: Workload, weights: list[Array]) -> tuple[Array, Array, list[list[Array]]]:
    """Return data, the result, and what the epilogue of each half reads."""
    dtype = workload.dtype
    between: list[list[Array]] = []
    gates: list[Array] = []
    match workload:
        case Pointwise():
            data = normal(workload.pixels, workload.inputs).astype(dtype)
            gated = data.astype(np.float64)
            if workload.gates:
                gates = [normal(workload.gates, workload.inputs, seed=7).astype(dtype)]
                gated *= gates[0].repeat(workload.pixels // workload.gates, 0)
            sums = gated @ weights[0].astype(np.float64)
        case Depthwise():
            data = _picture(workload, workload.channels).astype(dtype)
            sums = window_sums(data, weights[0], workload)
        case Convolution():
            data = _picture(workload, workload.inputs).astype(workload.types.data)
            sums = window_sums(data, weights[0], workload)
            if workload.reads_nchw:
                data = data.transpose(0, 3, 1, 2)
        case GlobalPool():
            data = normal(workload.batch, workload.pixels, workload.channels).astype(dtype)
            sums = data.astype(np.float64).mean(1)
        case DepthwisePointwise():
            data, inner, between = _reference(workload.depthwise, weights[:1])
            sums = inner @ weights[1].astype(np.float64)
        case _:
            raise TypeError(workload)
    expected, operands = with_epilogue(sums, workload.epilogue, dtype)
    return data, expected, [*between, [*gates, *operands]]


def _picture(workload: Depthwise | Convolution, channels: int) -> Array:
    return normal(workload.batch, workload.height, workload.width, channels)
