"""Tensor cores: their kernels' numbers, run on the CPU, and where they are chosen."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from gpu_layers import H100, check, gpu
from numpy_layers import BIAS, CLIP, RELU
from opencl_kernels import source

from mobilenet_tvm.compile.codegen.nvrtc import compile_cuda
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.gpu import (
    shared_depthwise_pointwise,
    shared_pointwise,
    tensor_core_depthwise_pointwise,
    tensor_core_pointwise,
)
from mobilenet_tvm.schedules.gpu.tensor_core_pointwise import Decision
from mobilenet_tvm.schedules.workloads import (
    Depthwise,
    DepthwisePointwise,
    Epilogue,
    Pointwise,
    Step,
    Types,
    Window,
)
from mobilenet_tvm.targets.presets import get_target

LAYER = Pointwise(196, 96, 576, (BIAS, CLIP), Types.of("float16"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("pixels", "inputs", "outputs"),
    [
        (196, 64, 48),
        (49, 160, 96),  # a last tile that is not full
        (16, 16, 16),  # one matrix
        (100, 24, 40),  # inputs that half fill a matrix, a vector of outputs
        (17, 20, 11),  # nothing is whole
        (33, 7, 1),  # inputs that are loaded one by one, one output
        (97, 1, 8),  # one input
        (18, 520, 24),  # long sums, shared out
    ],
)
@pytest.mark.parametrize(
    ("epilogue", "result"),
    [
        ((), "float16"),
        ((BIAS, Step("add"), RELU), "float16"),
        ((BIAS, Step("hard_swish")), "float32"),
    ],
    ids=lambda part: part if isinstance(part, str) else "-".join(s.op for s in part) or "none",
)
@pytest.mark.usefixtures("gcc")
def test_pointwise_by_default(
    pixels: int, inputs: int, outputs: int, epilogue: Epilogue, result: str
) -> None:
    workload = Pointwise(
        pixels, inputs, outputs, epilogue, replace(Types.of("float16"), result=result)
    )
    assert type(registry.default(workload, H100)) is Decision
    check(workload, target=H100)


@pytest.mark.parametrize(
    "decision",
    [
        Decision(16, 16, 2, 2, 2, 16),  # warps along all three
        Decision(64, 32, 1, 2, 1, 64),  # higher than the picture
        Decision(16, 64, 1, 1, 4, 32),  # most inputs are zeros
        Decision(32, 32, 4, 1, 1, 32),
        Decision(16, 16, 2, 1, 1, 16),  # operands of the next of several steps are on their way
    ],
    ids=str,
)
@pytest.mark.usefixtures("gcc")
def test_pointwise_by_other_decisions(decision: Decision) -> None:
    workload = Pointwise(52, 80, 48, (BIAS, CLIP), Types.of("float16"))
    assert tensor_core_pointwise.SCHEDULE.valid(workload, decision, H100)
    check(workload, decision, H100)


@pytest.mark.parametrize(
    ("size", "outputs", "kernel", "stride"),
    [
        ((1, 14, 14, 32), 24, 3, 1),
        ((2, 7, 7, 16), 8, 5, 1),  # batch
        ((1, 5, 13, 24), 11, 3, 2),  # a prime width, outputs that are no whole vector
        ((1, 6, 4, 7), 16, 3, 1),  # no whole vector of channels
        ((1, 28, 28, 96), 40, 5, 2),  # tiles that end inside a row
    ],
)
@pytest.mark.usefixtures("gcc")
def test_fused_layers(
    size: tuple[int, int, int, int], outputs: int, kernel: int, stride: int
) -> None:
    window = Window((kernel, kernel), (stride, stride), (kernel // 2,) * 4)  # type: ignore[arg-type]
    first = Depthwise(*size, window, (BIAS, CLIP))
    workload = DepthwisePointwise(first, outputs, (BIAS, Step("add"))).in_type("float16")
    # Whatever the model says of layers as small as these.
    decision = tensor_core_depthwise_pointwise.SCHEDULE.default(workload, H100)
    assert type(decision) is tensor_core_depthwise_pointwise.Decision
    check(workload, decision, H100)


@pytest.mark.parametrize(
    ("batch", "fused"), [(1, shared_depthwise_pointwise), (64, tensor_core_depthwise_pointwise)]
)
def test_fused_layers_take_what_is_faster(batch: int, fused: ModuleType) -> None:
    first = Depthwise(batch, 28, 28, 192, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS, CLIP))
    workload = DepthwisePointwise(first, 32, (BIAS,)).in_type("float16")
    assert type(registry.default(workload, H100)) is fused.Decision


def test_they_are_for_float16_and_whole_matrices_of_pixels() -> None:
    few = dataclasses.replace(LAYER, pixels=15)
    for workload, module in (
        (LAYER, tensor_core_pointwise),
        (few, shared_pointwise),
        (LAYER.in_type("float32"), shared_pointwise),
    ):
        assert type(registry.default(workload, H100)) is module.Decision
    assert type(registry.default(LAYER, get_target("mali"))) is not Decision


@pytest.mark.parametrize("name", ["cuda", "cuda:sm_80", "cuda:sm_90"])
def test_default_decision_is_in_the_space(name: str) -> None:
    target = get_target(name)
    default, *others = registry.decisions(LAYER, target)
    assert registry.decision(LAYER, vars(default), target) == default
    assert len(others) == len({*others, default}) - 1
    for decision in (default, *others):
        assert tensor_core_pointwise.shared_bytes(LAYER, decision) <= gpu(name).shared_bytes


def test_weights_are_filled_up_with_zeros() -> None:
    weight = np.ones((20, 11), np.float16)
    (packed,) = tensor_core_pointwise.SCHEDULE.pack([weight], Decision(16, 32, 1, 1, 2, 16))
    assert packed.shape == (32, 32)
    assert packed.sum() == 20 * 11
    assert packed[20:].sum() == packed[:, 11:].sum() == 0


@pytest.mark.parametrize(
    ("step_k", "ahead"),
    [
        (32, 2),  # the operands of the next step are on their way
        (64, 0),  # zeros fill up the last step
    ],
)
def test_structure(step_k: int, ahead: int) -> None:
    decision = Decision(32, 32, 2, 2, 1, step_k)
    code = source(registry.build(LAYER, decision, H100), H100)
    # A step, and the last one apart, multiplies 2 x 2 matrices for each 16 inputs.
    steps = 1 + bool(ahead)
    assert len(re.findall(r"wmma::mma_sync\(", code)) == steps * step_k // 16 * 4
    assert len(re.findall(r"wmma::load_matrix_sync\(", code)) == steps * step_k // 16 * (2 + 2)
    assert len(re.findall(r"wmma::store_matrix_sync\(", code)) == 4
    # Both operands come in 16 bytes at a time.
    assert len(re.findall(r"ptx_cp_async_legacy_cg_16_2_2\(buf", code)) == 2 * ahead
    waited = re.findall(r"\*\(uint4\*\)\(\(\(half\*\)buf", code)
    assert len(waited) == (0 if ahead else 2)
    # Each row is 16 bytes longer than what it holds, one of float32 sums as well.
    distances = set(re.findall(r"matrix_sync\(.*, (\d+)(?:, nvcuda.*)?\);", code))
    assert distances == {str(step_k + 8), str(64 + 8), str(64 + 4)}


@pytest.mark.usefixtures("nvrtc_library")
@pytest.mark.parametrize("name", ["cuda", "cuda:sm_80", "cuda:sm_90"])
def test_nvrtc_compiles_them(name: str) -> None:
    target = get_target(name)
    decision = registry.default(LAYER, target)
    code = compile_cuda(source(registry.build(LAYER, decision, target), target), gpu(name))
    if gpu(name).portable:
        assert b"wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32" in code
    assert b"main_kernel" in code
