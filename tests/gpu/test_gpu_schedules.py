"""GPU schedules: their numbers on an OpenCL device, their structure, the sizes at the edges."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from gpu_layers import CONVOLUTIONS, GATED, H100, LAYERS, MALI, check
from numpy_layers import BIAS, CLIP, RELU, close, window_sums
from opencl_kernels import call, source

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.gpu import convolution, depthwise, pointwise, shared_pointwise, stem
from mobilenet_tvm.schedules.workloads import (
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    Epilogue,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
    parse,
)
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

on_device = pytest.mark.usefixtures("pocl", "gcc")


@pytest.mark.parametrize(
    ("pixels", "inputs", "outputs"),
    [
        (196, 64, 48),
        (49, 32, 24),  # a last group that is not full
        (1, 40, 16),  # dense
        (7, 1, 8),  # one input
        (13, 6, 11),  # outputs that are no whole vector
        (2, 5, 1),  # one output, one thread
        (97, 12, 40),  # a prime number of pixels
        (7, 20, 1001),
    ],
)
@pytest.mark.parametrize("epilogue", [(), (BIAS, CLIP), (BIAS, Step("add"), RELU)])
@on_device
def test_pointwise_by_default(pixels: int, inputs: int, outputs: int, epilogue: Epilogue) -> None:
    workload = Pointwise(pixels, inputs, outputs, epilogue)
    check(workload)
    check(workload, target=H100)


@pytest.mark.parametrize(
    "decision",
    [
        pointwise.Decision(1, 4, 1, 64),
        pointwise.Decision(5, 8, 2, 128),  # ragged pixels
        pointwise.Decision(3, 16, 1, 256),
        pointwise.Decision(7, 4, 4, 64),
    ],
    ids=str,
)
@on_device
def test_pointwise_by_other_decisions(decision: pointwise.Decision) -> None:
    check(Pointwise(52, 16, 48, (BIAS, CLIP)), decision)


@pytest.mark.parametrize(
    "decision",
    [
        shared_pointwise.Decision(2, 4, 4, 8, 2, 8),
        shared_pointwise.Decision(1, 16, 1, 4, 16, 1),  # inputs shared out among all
        shared_pointwise.Decision(8, 4, 2, 16, 1, 16),
        shared_pointwise.Decision(4, 8, 16, 4, 4, 4),  # a tile higher than the picture
    ],
    ids=str,
)
@on_device
def test_shared_pointwise_by_other_decisions(decision: shared_pointwise.Decision) -> None:
    workload = Pointwise(52, 16, 48, (BIAS, CLIP))
    assert shared_pointwise.SCHEDULE.valid(workload, decision, H100)
    check(workload, decision, H100)


@pytest.mark.parametrize("target", [MALI, H100], ids=lambda target: target.name)
@pytest.mark.parametrize("workload", GATED, ids=str)
@on_device
def test_pointwise_with_gates(workload: Pointwise, target: Target) -> None:
    check(workload, target=target)


def test_gates_pay_where_they_save_a_kernel() -> None:
    for target in (MALI, H100):
        assert registry.pays(Pointwise(784, 72, 40, (BIAS,), gates=1), target)
    # Each tile of outputs multiplies anew; a thread of Mali's shares its product with no other.
    long = Pointwise(49, 960, 160, (BIAS,), gates=1)
    assert registry.pays(long, H100)
    assert not registry.pays(long, MALI)
    assert not registry.pays(long, get_target("x86"))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels"),
    [
        (1, 14, 14, 32),
        (2, 7, 7, 24),  # batch
        (1, 1, 1, 16),  # one pixel: all but one tap is padding
        (1, 5, 9, 8),  # not square
        (1, 8, 6, 7),  # no whole vector of channels
        (1, 6, 11, 10),  # vectors of two
    ],
)
@on_device
def test_depthwise_by_default(
    batch: int, height: int, width: int, channels: int, stride: int, kernel: int
) -> None:
    size = (batch, height, width, channels)
    padding = (kernel // 2,) * 4
    check(Depthwise(*size, Window((kernel, kernel), (stride, stride), padding), (BIAS, CLIP)))


@pytest.mark.parametrize("padding", [(0, 0, 1, 1), (1, 0, 0, 2), (0, 0, 0, 0), (2, 2, 2, 2)])
@on_device
def test_depthwise_with_asymmetric_padding(padding: tuple[int, int, int, int]) -> None:
    check(Depthwise(1, 10, 12, 16, Window((3, 3), (2, 2), padding), (Step("hard_swish"),)))


@on_device
def test_depthwise_by_every_strip() -> None:
    workload = Depthwise(1, 4, 11, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS,))
    strips = depthwise.SCHEDULE.space(workload, MALI)["tile_x"]
    assert strips == [1, 2, 3, 4, 5]
    for tile_x in strips:
        check(workload, depthwise.Decision(tile_x, 64))


@on_device
def test_border_of_a_picture_of_large_values_is_zero() -> None:
    # What stands in for the border is the nearest pixel, times zero.
    workload = Depthwise(1, 3, 3, 4, Window((3, 3), (1, 1), (1, 1, 1, 1)))
    data, weight = np.full((1, 3, 3, 4), 1e30, np.float32), np.ones((3, 3, 4), np.float32)
    func = registry.build(workload, registry.default(workload, MALI), MALI)
    close(call(func, MALI, data.shape, data, weight), window_sums(data, weight, workload))


@pytest.mark.parametrize("nchw", [True, False])
@pytest.mark.parametrize(
    ("height", "width", "inputs", "outputs", "padding"),
    [
        (16, 16, 3, 16, (1, 1, 1, 1)),
        (15, 17, 3, 8, (0, 0, 1, 1)),  # odd sizes, TensorFlow's padding
        (9, 9, 1, 5, (1, 1, 1, 1)),  # grey pictures, no whole vector
        (7, 7, 8, 12, (0, 0, 0, 0)),
    ],
)
@on_device
def test_stem_by_default(
    height: int, width: int, inputs: int, outputs: int, padding: tuple[int, ...], nchw: bool
) -> None:
    size = (2, height, width, inputs, outputs)
    check(Convolution(*size, Window((3, 3), (2, 2), padding), nchw, (BIAS, CLIP)))  # type: ignore[arg-type]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "outputs"),
    [
        (1, 14, 14, 32, 24),
        (2, 7, 7, 16, 8),  # batch
        (1, 5, 13, 24, 11),  # a prime width, outputs that are no whole vector
        (1, 28, 28, 96, 32),  # tiles that end inside a row
        (1, 1, 1, 8, 16),  # one pixel
        (1, 6, 4, 7, 16),  # no whole vector of channels
    ],
)
@pytest.mark.parametrize("target", [MALI, H100], ids=lambda target: target.name)
@on_device
def test_fused_layers_by_default(
    batch: int, height: int, width: int, channels: int, outputs: int, stride: int, target: Target
) -> None:
    size = (batch, height, width, channels)
    first = Depthwise(*size, Window((3, 3), (stride, stride), (1, 1, 1, 1)), (BIAS, CLIP))
    workload = DepthwisePointwise(first, outputs, (BIAS, Step("add")))
    check(workload, target=target)


@pytest.mark.parametrize(
    ("size", "outputs", "pays"), [((112, 112, 32), 16, True), ((14, 14, 384), 960, False)]
)
@pytest.mark.parametrize("target", [MALI, H100], ids=lambda target: target.name)
def test_fusing_pays_where_little_is_computed_again(
    size: tuple[int, int, int], outputs: int, pays: bool, target: Target
) -> None:
    first = Depthwise(1, *size, Window((3, 3), (1, 1), (1, 1, 1, 1)))
    assert registry.pays(DepthwisePointwise(first, outputs), target) is pays


@pytest.mark.parametrize("decision", [stem.Decision(1, 4, 64), stem.Decision(3, 8, 128)], ids=str)
@on_device
def test_stem_by_other_decisions(decision: stem.Decision) -> None:
    size = (1, 14, 14, 3, 16)
    check(Convolution(*size, Window((5, 5), (2, 2), (2, 2, 2, 2)), True, (BIAS,)), decision)


@pytest.mark.parametrize("text", CONVOLUTIONS)
@on_device
def test_convolution_by_default(text: str) -> None:
    workload = parse(text)
    assert registry.find(workload, MALI) is convolution.SCHEDULE
    check(workload)


@on_device
def test_convolution_by_every_tile() -> None:
    workload = parse("conv2d 1x4x11x8->32 k3x3 s1x1 p1,1,1,1 g2 nhwc add_channel")
    assert isinstance(workload, Convolution)
    decisions = convolution.SCHEDULE.decisions(workload, MALI)
    assert {(d.tile_x, d.tile_c) for d in decisions} >= {(1, 4), (2, 16), (7, 4)}
    for decision in decisions[::7]:
        check(workload, decision)


def test_groups_of_few_outputs_have_no_schedule() -> None:
    few = parse("conv2d 1x6x6x8->16 k3x3 s1x1 p1,1,1,1 g8 nhwc add_channel")
    assert registry.find(few, MALI) is None


@pytest.mark.parametrize(
    ("batch", "pixels", "channels"), [(1, 49, 64), (3, 1, 8), (2, 13, 6), (1, 5, 7)]
)
@on_device
def test_pooling_by_default(batch: int, pixels: int, channels: int) -> None:
    check(GlobalPool(batch, pixels, channels, (BIAS, Step("sigmoid"))))


def test_pooling_of_many_pixels_is_done_in_two_steps() -> None:
    first, second = registry.stages(GlobalPool(1, 3136, 16, (BIAS,)), MALI)
    assert (first, second) == (GlobalPool(56, 56, 16), GlobalPool(1, 56, 16, (BIAS,)))
    few = GlobalPool(1, 49, 1280)
    assert registry.stages(few, MALI) == [few]
    # A prime number of pixels has no parts.
    assert len(registry.stages(GlobalPool(1, 3137, 16), MALI)) == 1


@pytest.mark.parametrize("workload", LAYERS, ids=str)
def test_structure_of_mali_kernels(workload: Workload) -> None:
    decision = registry.default(workload, MALI)
    code = source(registry.build(workload, decision, MALI), MALI)
    assert len(re.findall(r"__kernel void \w+\([^)]*\) \{", code)) == 1
    # Arm's guide: nothing in local memory, nobody waits for another, 128 bits at a time.
    assert "__local" not in code
    assert "barrier" not in code
    assert "vload4" in code
    assert "vstore4" in code
    stored = re.findall(r"epilogue_ptr\[", code)
    assert not stored, "the result is stored one value at a time"
    # Branches: of the last group's idle threads, and of a last tile's pixels.
    assert len(re.findall(r"\bif \(", code)) <= 1 + 8
    assert "else" not in code
    assert 64 <= decision.group <= 256


@pytest.mark.parametrize("workload", LAYERS, ids=str)
def test_default_decision_is_in_the_space(workload: Workload) -> None:
    for name in ("mali", "cuda", "cuda:sm_90"):
        target = get_target(name)
        default, *others = registry.decisions(workload, target)
        assert registry.decision(workload, vars(default), target) == default
        assert len(others) == len({*others, default}) - 1


def test_mali_tiles_fit_64_registers() -> None:
    for workload in LAYERS:
        for decision in registry.decisions(workload, MALI):
            assert registry.features(workload, decision, MALI)["registers_of_thread"] <= 64


def test_a_decision_for_what_the_target_does_not_fuse_is_refused() -> None:
    first = Convolution(1, 8, 8, 8, 16, Window((1, 1), (1, 1), (0, 0, 0, 0)))
    second = Depthwise(1, 8, 8, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)))
    with pytest.raises(ValueError, match="mali-x86 has no schedule for block"):
        registry.decision(Block(first, DepthwisePointwise(second, 8)), {}, MALI)


@pytest.mark.parametrize(
    ("spelled", "name", "preset", "kind", "architecture"),
    [
        ("mali", "mali", "mali", "opencl", "aarch64"),
        ("Mali:x86", "mali-x86", "mali-x86", "opencl", "x86_64"),
        ("cuda", "cuda", "cuda", "cuda", "x86_64"),
        ("cuda:sm_90", "cuda-sm_90", "cuda-sm_90", "cuda", "x86_64"),
    ],
)
def test_gpus_have_names(
    spelled: str, name: str, preset: str, kind: str, architecture: str
) -> None:
    target = get_target(spelled)
    assert (target.name, target.preset) == (name, preset)
    assert (target.kind, target.architecture) == (kind, architecture)


def test_an_unknown_gpu_gets_an_offer() -> None:
    with pytest.raises(UserError, match="did you mean 'cuda-sm_90'"):
        get_target("cuda:sm_91")


def test_a_larger_group_than_the_device_takes_is_no_decision() -> None:
    workload = Pointwise(196, 96, 576)
    small = dataclasses.replace(
        MALI,
        gpu=dataclasses.replace(MALI.gpu, group_threads=128),  # type: ignore[type-var]
    )
    groups = {decision.group for decision in registry.decisions(workload, small)}
    assert groups == {64, 128}
    values = {**vars(registry.default(workload, small)), "group": 256}
    with pytest.raises(ValueError, match="does not fit mali-x86"):
        registry.decision(workload, values, small)
