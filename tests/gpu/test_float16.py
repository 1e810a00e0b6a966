"""GPU schedules in float16: their numbers on an OpenCL device, their structure, the edges."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from gpu_layers import CONVOLUTIONS, GATED, H100, HALF, LAYERS, MALI, check
from numpy_layers import BIAS, CLIP, RELU
from opencl_kernels import source

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.gpu import pointwise, shared_pointwise
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    DepthwisePointwise,
    Epilogue,
    GlobalPool,
    Pointwise,
    Step,
    Types,
    Window,
    Workload,
    parse,
)
from mobilenet_tvm.targets.target import Target

OnIntel = Callable[..., Any]

#: Those of NVIDIA's kernels that need it are parameters of tests of both.
pytestmark = pytest.mark.usefixtures("gcc")

BOTH = pytest.mark.parametrize("target", [MALI, H100], ids=lambda target: target.name)


@pytest.mark.parametrize(
    ("pixels", "inputs", "outputs"),
    [
        (196, 64, 48),
        (49, 32, 24),  # a last group that is not full
        (1, 40, 16),  # dense
        (7, 1, 8),  # one input
        (13, 6, 11),  # outputs that are no whole vector
        (2, 5, 1),  # one output, one thread
        (97, 12, 20),  # vectors of four
        (49, 960, 160),  # long sums
    ],
)
@pytest.mark.parametrize(
    ("epilogue", "result"),
    [
        ((), "float16"),
        ((BIAS, Step("add"), RELU), "float16"),
        ((BIAS, Step("hard_swish")), "float32"),
    ],
)
@BOTH
def test_pointwise_by_default(
    on_intel: OnIntel,
    pixels: int,
    inputs: int,
    outputs: int,
    epilogue: Epilogue,
    result: str,
    target: Target,
) -> None:
    on_intel(
        check,
        Pointwise(pixels, inputs, outputs, epilogue, replace(Types.of("float16"), result=result)),
        None,
        target,
    )


@pytest.mark.parametrize("workload", GATED, ids=str)
@BOTH
def test_pointwise_with_gates(on_intel: OnIntel, workload: Pointwise, target: Target) -> None:
    on_intel(check, workload.in_type("float16"), None, target)


@pytest.mark.parametrize(
    "decision",
    [
        pointwise.Decision(1, 8, 1, 64),  # each product is rounded
        pointwise.Decision(5, 8, 2, 128),  # ragged pixels
        pointwise.Decision(3, 16, 1, 256),
    ],
    ids=str,
)
def test_pointwise_by_other_decisions(on_intel: OnIntel, decision: pointwise.Decision) -> None:
    workload = Pointwise(52, 16, 48, (BIAS, CLIP), Types.of("float16"))
    assert pointwise.SCHEDULE.valid(workload, decision, MALI)
    on_intel(check, workload, decision)


def test_shared_pointwise_that_shares_the_inputs_out(on_intel: OnIntel) -> None:
    # Few pixels: more are for tensor cores.
    workload = Pointwise(15, 16, 48, (BIAS, CLIP), Types.of("float16"))
    decision = shared_pointwise.Decision(1, 16, 1, 4, 16, 1)
    assert shared_pointwise.SCHEDULE.valid(workload, decision, H100)
    on_intel(check, workload, decision, H100)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "kernel", "padding"),
    [
        (1, 14, 14, 32, 3, (1, 1, 1, 1)),
        (2, 7, 7, 24, 5, (2, 2, 2, 2)),  # batch
        (1, 1, 1, 16, 3, (1, 1, 1, 1)),  # one pixel: all but one tap is padding
        (1, 5, 9, 20, 3, (0, 0, 1, 1)),  # vectors of four, TensorFlow's padding
        (1, 8, 6, 7, 5, (1, 2, 2, 1)),  # no whole vector of channels
    ],
)
@BOTH
def test_depthwise_by_default(
    on_intel: OnIntel,
    batch: int,
    height: int,
    width: int,
    channels: int,
    kernel: int,
    padding: tuple[int, int, int, int],
    stride: int,
    target: Target,
) -> None:
    window = ((kernel, kernel), (stride, stride), padding)
    workload = Depthwise(
        batch, height, width, channels, Window(*window), (BIAS, CLIP), Types.of("float16")
    )
    on_intel(check, workload, None, target)


@pytest.mark.parametrize(
    ("outputs", "nchw"),
    [(16, True), (8, False), (12, True), (5, False)],  # no whole vectors of eight
)
@BOTH
def test_a_stem_reads_float32(on_intel: OnIntel, outputs: int, nchw: bool, target: Target) -> None:
    size = (2, 15, 17, 3, outputs)
    window = ((3, 3), (2, 2), (0, 0, 1, 1))
    workload = Convolution(*size, Window(*window), nchw, (BIAS, CLIP), Convolution.usual("float16"))
    on_intel(check, workload, None, target)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "outputs"),
    [
        (1, 14, 14, 32, 24),
        (2, 7, 7, 16, 8),  # batch
        (1, 5, 13, 24, 11),  # a prime width, outputs that are no whole vector
        (1, 1, 1, 8, 16),  # one pixel
        (1, 6, 4, 7, 16),  # no whole vector of channels
    ],
)
@BOTH
def test_fused_layers_by_default(
    on_intel: OnIntel,
    batch: int,
    height: int,
    width: int,
    channels: int,
    outputs: int,
    stride: int,
    target: Target,
) -> None:
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    first = Depthwise(batch, height, width, channels, window, (BIAS, CLIP))
    workload = DepthwisePointwise(first, outputs, (BIAS, Step("add"))).in_type("float16")
    on_intel(check, workload, None, target)


@pytest.mark.parametrize(
    ("batch", "pixels", "channels"), [(1, 49, 64), (3, 1, 8), (2, 13, 12), (1, 5, 7)]
)
@BOTH
def test_pooling_by_default(
    on_intel: OnIntel, batch: int, pixels: int, channels: int, target: Target
) -> None:
    workload = GlobalPool(batch, pixels, channels, (BIAS, Step("sigmoid")), Types.of("float16"))
    on_intel(check, workload, None, target)


def test_parts_of_a_pooling_are_float16_too() -> None:
    first, second = registry.stages(GlobalPool(1, 3136, 16, (BIAS,), Types.of("float16")), MALI)
    assert first == GlobalPool(56, 56, 16, (), Types.of("float16"))
    assert second == GlobalPool(1, 56, 16, (BIAS,), Types.of("float16"))


@pytest.mark.parametrize("text", CONVOLUTIONS)
@BOTH
def test_convolution_by_default(on_intel: OnIntel, text: str, target: Target) -> None:
    on_intel(check, parse(text).in_type("float16"), None, target)


@pytest.mark.parametrize("workload", HALF, ids=str)
def test_structure_of_mali_kernels(workload: Workload) -> None:
    decision = registry.default(workload, MALI)
    code = source(registry.build(workload, decision, MALI), MALI)
    assert "#pragma OPENCL EXTENSION cl_khr_fp16 : enable" in code
    assert "__local" not in code
    assert "barrier" not in code
    # 128 bits at a time, in and out.
    assert "vload8" in code
    assert re.search(r"vstore8\(.*, 0, epilogue_ptr", code)
    assert not re.findall(r"epilogue_ptr\[", code)
    # Only the few taps of a depthwise layer are added up in float16.
    sums = "half8" if isinstance(workload, Depthwise) else "float8"
    assert re.search(rf"{sums} (pointwise|sum|depthwise|conv2d)_local_ptr\[", code)


@pytest.mark.parametrize("workload", HALF, ids=str)
@BOTH
def test_default_decision_is_in_the_space(workload: Workload, target: Target) -> None:
    default, *others = registry.decisions(workload, target)
    assert registry.decision(workload, vars(default), target) == default
    assert len(others) == len({*others, default}) - 1


def test_mali_tiles_fit_64_registers() -> None:
    for workload in HALF:
        for decision in registry.decisions(workload, MALI):
            assert registry.features(workload, decision, MALI)["registers_of_thread"] <= 64


@pytest.mark.parametrize(("workload", "half"), [*zip(LAYERS, HALF, strict=True)], ids=str)
def test_all_but_a_stem_move_half_the_bytes_and_are_modelled_faster(
    workload: Workload, half: Workload
) -> None:
    picture = isinstance(workload, Convolution) and workload.is_stem
    assert half.bytes == workload.bytes / 2 or picture
    cycles = [
        registry.cycles(layer, registry.default(layer, MALI), MALI) for layer in (workload, half)
    ]
    assert cycles[1] < cycles[0] or picture
