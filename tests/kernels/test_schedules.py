"""Schedules: their structure, their numbers against NumPy, and the sizes at the edges."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import tvm
from assembly import assembly
from numpy_layers import BIAS, CLIP, RELU, close, normal, window_sums, with_epilogue
from tvm import tirx

from mobilenet_tvm.compile.codegen.pass_context import PASS_CONFIG
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu import (
    block,
    depthwise,
    depthwise_pointwise,
    pointwise,
    pooling,
    stem,
    windows,
)
from mobilenet_tvm.schedules.workloads import (
    Block,
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
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

X86 = PRESETS["x86"]
CPUS = [name for name, target in PRESETS.items() if target.gpu is None]
#: One of each architecture; what is built for either runs here, compiled for x86.
MACHINES = pytest.mark.parametrize("machine", [X86, PRESETS["cortex-a53"]], ids=lambda m: m.name)


def call(func: tirx.PrimFunc, output: tuple[int, ...], *arrays: Array) -> Array:
    """Compile a scheduled function for this machine and run it once."""
    result = np.full(output, np.nan, np.float32)
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        compiled = tvm.compile(func, target=llvm_target(X86))
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, result)]
    compiled["main"](*tensors)
    return np.asarray(tensors[-1].numpy())


def check_pointwise(
    workload: Pointwise, decision: pointwise.Decision, machine: Target = X86
) -> None:
    data = normal(workload.pixels, workload.inputs)
    weight = normal(workload.inputs, workload.outputs, seed=1) / np.float32(workload.inputs**0.5)
    expected, operands = with_epilogue(
        data.astype(np.float64) @ weight.astype(np.float64), workload.epilogue
    )
    func = pointwise.SCHEDULE.build(workload, decision, machine)
    shape = (workload.pixels, workload.outputs)
    close(
        call(func, shape, data, *pointwise.SCHEDULE.pack([weight], decision), *operands), expected
    )


def check_depthwise(
    workload: Depthwise, decision: depthwise.Decision, machine: Target = X86
) -> None:
    data = normal(workload.batch, workload.height, workload.width, workload.channels)
    weight = normal(*workload.window.kernel, workload.channels, seed=1)
    expected, operands = with_epilogue(window_sums(data, weight, workload), workload.epilogue)
    func = depthwise.SCHEDULE.build(workload, decision, machine)
    packed = depthwise.SCHEDULE.pack([weight], decision)
    close(call(func, expected.shape, data, *packed, *operands), expected)


@pytest.mark.parametrize(
    ("pixels", "inputs", "outputs"),
    [
        (196, 64, 48),
        (49, 32, 24),  # pixels that no tile but 7 divides
        (1, 40, 16),  # dense
        (7, 1, 8),  # one input
        (13, 6, 11),  # outputs that are no whole vector
        (2, 5, 1),  # one output
        (97, 12, 40),  # a prime number of pixels
        (7, 20, 1001),
        (12, 8, 133),  # 17 vectors of 8: the last tile has some that only pad
        (12, 8, 136),
    ],
)
@pytest.mark.parametrize("epilogue", [(), (BIAS, CLIP), (BIAS, Step("add"), RELU)])
@MACHINES
def test_pointwise_by_default(
    pixels: int, inputs: int, outputs: int, epilogue: Epilogue, machine: Target
) -> None:
    workload = Pointwise(pixels, inputs, outputs, epilogue)
    check_pointwise(workload, pointwise.SCHEDULE.default(workload, machine), machine)


@pytest.mark.parametrize(
    "decision",
    [
        pointwise.Decision(8, 1, 8, 1, 1),
        pointwise.Decision(8, 5, 16, 1, 2),  # ragged pixels and two cache blocks
        pointwise.Decision(8, 4, 24, 4, 13),
        pointwise.Decision(4, 7, 12, 2, 1),  # half vectors
        pointwise.Decision(8, 14, 8, 8, 4),
    ],
)
@MACHINES
def test_pointwise_by_other_decisions(decision: pointwise.Decision, machine: Target) -> None:
    outputs = 48
    check_pointwise(Pointwise(52, 16, outputs, (BIAS, CLIP)), decision, machine)


@pytest.mark.parametrize("target", CPUS)
def test_every_tile_in_the_space_is_valid(target: str) -> None:
    workloads = [Pointwise(49, 96, 40), Pointwise(1, 64, 1001), Pointwise(12544, 3, 8)]
    for workload in workloads:
        limit = PRESETS[target].vector_registers
        for lanes, tile_m, tile_n in pointwise.SCHEDULE.space(workload, PRESETS[target])["tile"]:
            assert tile_m * (tile_n // lanes) < limit
            vectors = -(-workload.outputs // lanes) * lanes
            assert 8 * (-vectors % tile_n) <= vectors


def test_outputs_without_small_divisors_are_padded() -> None:
    machine = PRESETS["x86-amx"]
    # 35 and 11 vectors; 5, whose padding would be too much.
    for outputs, tile_n in ((546, 48), (176, 48), (80, 16)):
        assert pointwise.SCHEDULE.default(Pointwise(400, 672, outputs), machine).tile_n == tile_n
    for outputs in (280, 277):
        workload = Pointwise(50, 24, outputs, (BIAS,))
        default = pointwise.SCHEDULE.default(workload, X86)
        assert -outputs % default.tile_n >= 8
        check_pointwise(workload, default)


def test_wide_depthwise_tiles_where_data_leave_the_cache() -> None:
    machine = PRESETS["x86-avx512"]
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    # 256 bytes per pixel; 576, where one line of each pixel uses all sets; data that fit.
    for size, channels, tile_c in ((80, 64, 64), (56, 144, 16), (20, 64, 16)):
        workload = Depthwise(1, size, size, channels, window)
        assert depthwise.SCHEDULE.default(workload, machine).tile_c == tile_c


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
        (1, 28, 28, 256),  # pixels a power of two apart
    ],
)
def test_depthwise_by_default(
    batch: int, height: int, width: int, channels: int, stride: int, kernel: int
) -> None:
    size = (batch, height, width, channels)
    padding = (kernel // 2,) * 4
    workload = Depthwise(*size, Window((kernel, kernel), (stride, stride), padding), (BIAS, CLIP))
    check_depthwise(workload, depthwise.SCHEDULE.default(workload, X86))


@pytest.mark.parametrize("padding", [(0, 0, 1, 1), (1, 0, 0, 2), (0, 0, 0, 0), (2, 2, 2, 2)])
def test_depthwise_with_asymmetric_padding(padding: tuple[int, int, int, int]) -> None:
    workload = Depthwise(1, 10, 12, 16, Window((3, 3), (2, 2), padding), (Step("hard_swish"),))
    check_depthwise(workload, depthwise.SCHEDULE.default(workload, X86))


@pytest.mark.parametrize("dilation", [(2, 2), (1, 3)])
def test_depthwise_with_steps_between_taps(dilation: tuple[int, int]) -> None:
    window = Window((3, 5), (1, 2), (2, 4, 2, 4), dilation)
    workload = Depthwise(1, 10, 12, 16, window, (BIAS,))
    check_depthwise(workload, depthwise.SCHEDULE.default(workload, X86))


def test_depthwise_by_every_decision_of_a_small_layer() -> None:
    workload = Depthwise(1, 4, 4, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS,))
    space = depthwise.SCHEDULE.space(workload, X86)
    decisions = list(itertools.product(space["tile"], space["channels_outside"]))
    assert len(decisions) > 20
    for tile, outside in decisions[::3]:
        check_depthwise(workload, depthwise.Decision(*tile, channels_outside=outside))


@pytest.mark.parametrize(
    ("machine", "channels", "pieces"),
    [
        ("x86", 37, [(0, 32, 8), (29, 8, 8)]),
        ("x86", 10, [(0, 8, 8), (8, 2, 2)]),
        ("x86", 3, [(0, 2, 2), (2, 1, 1)]),
        ("x86-avx512", 24, [(0, 16, 16), (16, 8, 8)]),
        ("cortex-a76", 7, [(0, 4, 4), (3, 4, 4)]),
        ("x86", 24, [(0, 24, 8)]),
        ("x86-avx512", 8, [(0, 8, 8)]),
    ],
)
def test_channels_that_fill_no_vector_are_two_pieces(
    machine: str, channels: int, pieces: list[tuple[int, int, int]]
) -> None:
    target = PRESETS[machine]
    found = windows.ragged_pieces(channels, target.lanes_of("float32"))
    assert [(piece.first, piece.channels, piece.lanes) for piece in found] == pieces
    steps = (BIAS, Step("prelu"), Step("add"))
    for batch, window in ((2, Window((3, 3), (1, 1), (1, 1, 1, 1))), (1, Window((5, 3), (2, 2)))):
        workload = Depthwise(batch, 8, 12, channels, window, steps)
        decisions = registry.decisions(workload, target)
        ragged = [d for d in decisions if channels % d.tile_c]  # type: ignore[attr-defined]
        assert bool(ragged) == (len(pieces) > 1)
        for decision in (ragged or decisions)[::16]:
            assert isinstance(decision, depthwise.Decision)
            assert registry.decision(workload, vars(decision), target) == decision
            check_depthwise(workload, decision, target)


@pytest.mark.parametrize(("size", "parallel"), [(10, 0), (20, 1)])
def test_threads_start_only_for_enough_work(size: int, parallel: int) -> None:
    for channels in (64, 60):
        window = Window((3, 3), (1, 1), (1, 1, 1, 1))
        workload = Depthwise(1, size, size, channels, window, (BIAS,))
        func = depthwise.SCHEDULE.build(workload, depthwise.SCHEDULE.default(workload, X86), X86)
        assert func.script().count("T.parallel") == parallel


@pytest.mark.parametrize(
    ("size", "channels", "tile"),
    [(8, 37, 8), (8, 48, 8), (8, 20, 8), (8, 4, 4), (96, 20, 4), (96, 37, 8)],
)
def test_vectors_are_whole_by_default(size: int, channels: int, tile: int) -> None:
    # Half vectors stay where the picture is larger than the cache.
    workload = Depthwise(1, size, size, channels, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS,))
    assert depthwise.SCHEDULE.default(workload, X86).tile_c == tile


def check_fused(
    workload: DepthwisePointwise, decision: depthwise_pointwise.Decision, machine: Target = X86
) -> None:
    first = workload.depthwise
    data = normal(first.batch, first.height, first.width, first.channels)
    taps = normal(*first.window.kernel, first.channels, seed=1)
    matrix = normal(first.channels, workload.outputs, seed=2) / np.float32(first.channels**0.5)
    between, operands = with_epilogue(window_sums(data, taps, first), first.epilogue)
    expected, last = with_epilogue(between @ matrix.astype(np.float64), workload.epilogue)
    func = depthwise_pointwise.SCHEDULE.build(workload, decision, machine)
    packed = depthwise_pointwise.SCHEDULE.pack([taps, matrix], decision)
    close(call(func, expected.shape, data, packed[0], *operands, packed[1], *last), expected)


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
@MACHINES
def test_fused_layers_by_default(
    batch: int, height: int, width: int, channels: int, outputs: int, stride: int, machine: Target
) -> None:
    size = (batch, height, width, channels)
    first = Depthwise(*size, Window((3, 3), (stride, stride), (1, 1, 1, 1)), (BIAS, CLIP))
    workload = DepthwisePointwise(first, outputs, (BIAS, Step("add")))
    check_fused(workload, depthwise_pointwise.SCHEDULE.default(workload, machine), machine)


def test_fused_layers_by_every_decision_of_a_small_one() -> None:
    first = Depthwise(1, 4, 6, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)), (Step("hard_swish"),))
    workload = DepthwisePointwise(first, 24)
    space = depthwise_pointwise.SCHEDULE.space(workload, X86)
    decisions = [
        depthwise_pointwise.Decision(*tile, tile_x)
        for tile, tile_x in itertools.product(space["tile"], space["tile_x"])
        if tile[1] % tile_x == 0
    ]
    assert len(decisions) > 8
    for decision in decisions[::2]:
        check_fused(workload, decision)


@pytest.mark.parametrize(
    ("size", "stride", "pays"),
    [((112, 112, 64), 1, True), ((112, 112, 64), 2, False), ((14, 14, 64), 1, False)],
)
def test_fusing_pays_where_the_tensor_between_leaves_the_cache(
    size: tuple[int, int, int], stride: int, pays: bool
) -> None:
    first = Depthwise(1, *size, Window((3, 3), (stride, stride), (1, 1, 1, 1)))
    assert depthwise_pointwise.SCHEDULE.pays(DepthwisePointwise(first, 32), X86) is pays
    # Not if the weights leave it too.
    assert not depthwise_pointwise.SCHEDULE.pays(DepthwisePointwise(first, 4096), X86)


def check_block(workload: Block, decision: block.Decision) -> None:
    first, second = workload.first, workload.halves.depthwise
    data = normal(first.batch, first.height, first.width, first.inputs)
    fan_in = np.float32((first.window.kernel[0] * first.window.kernel[1] * first.inputs) ** 0.5)
    weight = normal(*first.window.kernel, first.inputs, first.outputs, seed=3) / fan_in
    taps = normal(*second.window.kernel, second.channels, seed=1)
    matrix = normal(second.channels, workload.halves.outputs, seed=2)
    matrix /= np.float32(second.channels**0.5)
    expanded, steps = with_epilogue(window_sums(data, weight, first), first.epilogue)
    between, operands = with_epilogue(window_sums(expanded, taps, second), second.epilogue)
    expected, last = with_epilogue(between @ matrix.astype(np.float64), workload.epilogue)
    func = block.SCHEDULE.build(workload, decision, X86)
    packed = block.SCHEDULE.pack([weight, taps, matrix], decision)
    picture = np.ascontiguousarray(data.transpose(0, 3, 1, 2)) if first.reads_nchw else data
    arrays = [picture, packed[0], *steps, packed[1], *operands, packed[2], *last]
    close(call(func, expected.shape, *arrays), expected)


def a_block(
    first: Convolution, stride: int, outputs: int, kernel: int = 3, pad: int | None = None
) -> Block:
    """Continue a convolution by a depthwise and a pointwise layer with a residual."""
    before = kernel // 2 if pad is None else pad
    size = (first.batch, *first.output, first.outputs)
    padding = (before, before, kernel // 2, kernel // 2)
    second = Depthwise(*size, Window((kernel, kernel), (stride, stride), padding), (BIAS, CLIP))
    return Block(first, DepthwisePointwise(second, outputs, (BIAS, Step("add"))))


def expansion(batch: int, height: int, width: int, inputs: int, outputs: int) -> Convolution:
    size = (batch, height, width, inputs, outputs)
    return Convolution(*size, Window((1, 1), (1, 1), (0, 0, 0, 0)), epilogue=(BIAS, CLIP))


BLOCKS = [
    a_block(expansion(1, 14, 14, 8, 32), 1, 24),
    a_block(expansion(2, 8, 8, 6, 24), 2, 8),  # batch, inputs that are not unrolled by four
    a_block(expansion(1, 5, 13, 3, 7), 1, 11),  # a prime width, no whole vector
    a_block(expansion(1, 12, 10, 24, 16), 2, 16, 5),
    a_block(expansion(1, 7, 9, 4, 8), 2, 8, 3, 0),  # TensorFlow's padding, odd sizes
    a_block(expansion(1, 1, 1, 8, 16), 1, 8),  # one pixel
    a_block(
        Convolution(1, 24, 24, 3, 16, Window((3, 3), (2, 2), (1, 1, 1, 1)), True, (BIAS,)), 1, 8
    ),
    a_block(
        Convolution(2, 17, 15, 3, 8, Window((3, 3), (2, 2), (0, 0, 1, 1)), False, (RELU,)), 2, 8
    ),
]


@pytest.mark.parametrize("workload", BLOCKS, ids=str)
def test_block_by_default_and_by_bands(workload: Block) -> None:
    decision = block.SCHEDULE.default(workload, X86)
    check_block(workload, decision)
    for rows in block.SCHEDULE.space(workload, X86)["rows"][:3]:
        check_block(workload, dataclasses.replace(decision, rows=rows))


def test_block_by_every_tile_of_a_small_one() -> None:
    workload = a_block(expansion(1, 4, 6, 4, 16), 1, 24)
    space = block.SCHEDULE.space(workload, X86)
    for first in space["first"]:
        check_block(
            workload,
            dataclasses.replace(
                block.SCHEDULE.default(workload, X86), first_x=first[0], first_c=first[1]
            ),
        )


@pytest.mark.parametrize(
    ("first", "pays"),
    [
        (expansion(1, 112, 112, 16, 96), True),
        (expansion(1, 14, 14, 96, 576), False),  # stays in the cache without fusing
        (expansion(1, 56, 56, 256, 256), False),  # repeated rows are expensive
    ],
    ids=str,
)
def test_a_block_pays_where_its_first_result_leaves_the_cache(
    first: Convolution, pays: bool
) -> None:
    workload = a_block(first, 1, 32)
    assert registry.pays(workload, X86) is pays
    # A band for each of four threads, whatever the cache would hold.
    rows = block.SCHEDULE.default(workload, dataclasses.replace(X86, l2_bytes=2**30)).rows
    assert rows * 4 <= workload.halves.depthwise.output[0]


@pytest.mark.parametrize("nchw", [True, False])
@pytest.mark.parametrize(
    ("height", "width", "inputs", "outputs", "padding"),
    [
        (16, 16, 3, 16, (1, 1, 1, 1)),
        (15, 17, 3, 8, (0, 0, 1, 1)),  # odd sizes, TensorFlow's padding
        (9, 9, 1, 5, (1, 1, 1, 1)),  # grey pictures, no whole vector
        (3, 3, 4, 24, (1, 1, 1, 1)),
    ],
)
def test_stem_by_default(
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    padding: tuple[int, int, int, int],
    nchw: bool,
) -> None:
    workload = Convolution(
        2, height, width, inputs, outputs, Window((3, 3), (2, 2), padding), nchw, (BIAS, CLIP)
    )
    data = normal(2, height, width, inputs)
    weight = normal(3, 3, inputs, outputs, seed=1)
    expected, operands = with_epilogue(window_sums(data, weight, workload), workload.epilogue)
    decision = stem.SCHEDULE.default(workload, X86)
    func = stem.SCHEDULE.build(workload, decision, X86)
    picture = np.ascontiguousarray(data.transpose(0, 3, 1, 2)) if nchw else data
    close(
        call(func, expected.shape, picture, *stem.SCHEDULE.pack([weight], decision), *operands),
        expected,
    )


@pytest.mark.parametrize(("batch", "pixels", "channels"), [(1, 49, 96), (3, 1, 8), (2, 9, 13)])
def test_pooling_by_default(batch: int, pixels: int, channels: int) -> None:
    workload = GlobalPool(batch, pixels, channels, (Step("hard_sigmoid"),))
    data = normal(batch, pixels, channels)
    expected, _ = with_epilogue(data.astype(np.float64).mean(axis=1), workload.epilogue)
    func = pooling.SCHEDULE.build(workload, pooling.SCHEDULE.default(workload, X86), X86)
    close(call(func, (batch, channels), data), expected)


@pytest.mark.parametrize(
    "step",
    [
        BIAS,
        RELU,
        CLIP,
        Step("mul_channel"),
        Step("add"),
        Step("mul"),
        Step("hard_swish"),
        Step("hard_sigmoid"),
        Step("sigmoid"),
        Step("silu"),
        Step("gelu"),
        Step("tanh"),
        Step("elu"),
        Step("softplus"),
        Step("mish"),
        Step("leaky_relu", (0.1,)),
        Step("prelu"),
    ],
    ids=str,
)
def test_each_step_of_an_epilogue(step: Step) -> None:
    workload = Pointwise(12, 8, 16, (step,))
    check_pointwise(workload, pointwise.SCHEDULE.default(workload, X86))


def loops(func: tirx.PrimFunc, kind: str) -> int:
    """Count the loops of a kind in a function's text."""
    return str(func.script()).count(f"T.{kind}(")


@pytest.mark.parametrize(
    ("pixels", "inputs", "outputs", "lines"),
    [(196, 512, 512, 1), (98, 256, 256, 1), (196, 8, 16, 0), (1, 512, 512, 0)],
)
def test_weights_that_leave_the_first_cache_are_prefetched(
    pixels: int, inputs: int, outputs: int, lines: int
) -> None:
    machine = PRESETS["x86-avx512"]
    workload = Pointwise(pixels, inputs, outputs)
    func = pointwise.SCHEDULE.build(
        workload, pointwise.SCHEDULE.default(workload, machine), machine
    )
    assert str(func.script()).count("T.prefetch(") == lines


def test_prefetched_layers_compute_the_same() -> None:
    workload = Pointwise(45, 96, 160, (BIAS,))
    for block_m in (2, 3, 45):
        check_pointwise(
            workload,
            dataclasses.replace(pointwise.SCHEDULE.default(workload, X86), block_m=block_m),
        )


@pytest.mark.parametrize(
    ("pixels", "inputs", "outputs", "blocks"),
    [(196, 96, 192, 2), (49, 128, 512, 1), (196, 512, 512, 1), (1, 960, 1280, 1)],
)
def test_threads_divide_pixels_where_weights_are_small(
    pixels: int, inputs: int, outputs: int, blocks: int
) -> None:
    machine = PRESETS["x86-avx512"]
    workload = Pointwise(pixels, inputs, outputs)
    default = pointwise.SCHEDULE.default(workload, machine)
    assert -(-pixels // default.tile_m) == blocks * default.block_m
    # A decision from a log, too.
    logged = dataclasses.replace(default, block_m=pixels)
    built = pointwise.SCHEDULE.build(workload, logged, machine)
    tvm.ir.assert_structural_equal(built, pointwise.SCHEDULE.build(workload, default, machine))


def extent(number: int, machine: Target) -> str:
    """Return an extent as a function's script writes it."""
    return f"T.int64({number})" if machine.architecture == "aarch64" else str(number)


@pytest.mark.parametrize("target", CPUS)
def test_structure_of_the_default_decisions(target: str) -> None:
    machine = PRESETS[target]
    workloads: list[Workload] = [
        Pointwise(196, 96, 576, (BIAS, CLIP)),
        Depthwise(1, 14, 14, 384, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS, CLIP)),
        Convolution(1, 224, 224, 3, 32, Window((3, 3), (2, 2), (1, 1, 1, 1)), True, (BIAS, CLIP)),
    ]
    for workload in workloads:
        decision = registry.default(workload, machine)
        text = registry.build(workload, decision, machine).script()
        # One loop for the threads, vectors of the machine's width.
        assert text.count("T.parallel(") == 1
        assert f"T.vectorized({extent(machine.lanes_of('float32'), machine)})" in text


@pytest.mark.parametrize("target", CPUS)
@pytest.mark.parametrize(
    "workload",
    [
        Pointwise(196, 96, 576, (BIAS, CLIP)),
        Pointwise(49, 160, 100),
        Depthwise(1, 14, 14, 384, Window((5, 5), (1, 1), (2, 2, 2, 2)), (BIAS, CLIP)),
        GlobalPool(1, 49, 1280),
    ],
    ids=str,
)
def test_sums_are_in_registers(workload: Workload, target: str) -> None:
    machine = PRESETS[target]
    func = registry.build(workload, registry.default(workload, machine), machine)
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        built = tvm.tirx.build(func, target=llvm_target(machine))
    # A tile that is not on the stack is allocated, cleared and stored for nothing.
    source = built.inspect_source("ll")
    assert "@TVMBackendAllocWorkspace" not in source
    assert "@__TVMBackendAllocWorkspace" not in source
    assert "memset" not in source


@pytest.mark.parametrize(
    ("target", "inputs", "together"),
    [
        ("cortex-a72", 96, 4),
        ("cortex-a53", 96, 2),
        ("arm64", 6, 1),
        ("cortex-a53", 7, 1),
        ("x86", 96, 1),
    ],
)
def test_arm_loads_several_inputs_at_once(target: str, inputs: int, together: int) -> None:
    workload, machine = Pointwise(196, inputs, 64), PRESETS[target]
    func = registry.build(workload, registry.default(workload, machine), machine)
    text = func.script()
    assert ("data_global" in text) is (together > 1)
    assert together == 1 or f"T.vectorized({extent(together, machine)})" in text


def test_an_in_order_core_gets_the_tile_that_loads_least() -> None:
    workload, core = Pointwise(196, 96, 576), PRESETS["cortex-a53"]
    assert pointwise.best_tile(workload, core) == (4, 7, 8)
    assert pointwise.best_tile(workload, dataclasses.replace(core, in_order=False)) == (4, 4, 16)


def test_small_layers_start_no_threads() -> None:
    for workload in (Pointwise(1, 64, 16), GlobalPool(1, 49, 64)):
        func = registry.build(workload, registry.default(workload, X86), X86)
        assert loops(func, "parallel") == 0


@pytest.mark.parametrize(
    ("workload", "text", "flops", "moved"),
    [
        (
            Pointwise(49, 160, 960, (BIAS, CLIP, Step("add"))),
            "pointwise 49x160x960 add_channel clip(0,6) add",
            2 * 49 * 160 * 960,
            4 * (49 * 160 + 160 * 960 + 2 * 49 * 960),
        ),
        (
            Pointwise(98, 160, 24, (BIAS,), gates=2),
            "pointwise 98x160x24 gates(2) add_channel",
            2 * 98 * 160 * 24 + 98 * 160,
            4 * (98 * 160 + 160 * 24 + 98 * 24 + 2 * 160),
        ),
        (
            Depthwise(2, 9, 8, 24, Window((3, 3), (2, 2), (0, 0, 1, 1))),
            "depthwise 2x9x8x24 k3x3 s2x2 p0,0,1,1",
            2 * 2 * 4 * 4 * 24 * 9,
            4 * 24 * (2 * (9 * 8 + 4 * 4) + 9),
        ),
        (
            Convolution(1, 8, 8, 3, 16, Window((3, 3), (2, 2), (1, 1, 1, 1)), True, (RELU,)),
            "conv2d 1x8x8x3->16 k3x3 s2x2 p1,1,1,1 nchw relu",
            2 * 4 * 4 * 16 * 27,
            4 * (8 * 8 * 3 + 4 * 4 * 16 + 27 * 16),
        ),
        (GlobalPool(1, 49, 8), "global_pool 1x49x8", 49 * 8, 4 * 50 * 8),
        (
            DepthwisePointwise(
                Depthwise(1, 8, 8, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)), (RELU,)), 24, (BIAS,)
            ),
            "depthwise_pointwise depthwise 1x8x8x16 k3x3 s1x1 p1,1,1,1 relu -> 24 add_channel",
            2 * 64 * 16 * 9 + 2 * 64 * 16 * 24,
            4 * (64 * 16 + 9 * 16 + 16 * 24 + 64 * 24),
        ),
        (
            a_block(expansion(1, 8, 8, 4, 16), 1, 24),
            "block conv2d 1x8x8x4->16 k1x1 s1x1 p0,0,0,0 nhwc add_channel clip(0,6) -> "
            "depthwise_pointwise depthwise 1x8x8x16 k3x3 s1x1 p1,1,1,1 add_channel clip(0,6) -> "
            "24 add_channel add",
            2 * 64 * (4 * 16 + 16 * 9 + 16 * 24),
            4 * (64 * 4 + 4 * 16 + 9 * 16 + 16 * 24 + 2 * 64 * 24),
        ),
        (
            Pointwise(1, 24, 10, (BIAS,), Types("float16", "float16", "float32", "float32")),
            "pointwise 1x24x10 float16->float32 add_channel",
            2 * 24 * 10,
            2 * (24 + 24 * 10) + 4 * 10,
        ),
        (
            # A stem reads a picture of float32.
            Convolution(
                1,
                8,
                8,
                3,
                8,
                Window((3, 3), (1, 1), (1, 1, 1, 1)),
                True,
                (),
                Convolution.usual("float16"),
            ),
            "conv2d 1x8x8x3->8 k3x3 s1x1 p1,1,1,1 nchw float16",
            2 * 64 * 8 * 27,
            4 * 64 * 3 + 2 * (27 * 8 + 64 * 8),
        ),
        (
            DepthwisePointwise(
                Depthwise(1, 8, 8, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)), (RELU,)),
                24,
                (BIAS, Step("add")),
            ).in_type("float16"),
            "depthwise_pointwise depthwise 1x8x8x16 k3x3 s1x1 p1,1,1,1 float16 relu -> "
            "24 add_channel add",
            2 * 64 * 16 * 9 + 2 * 64 * 16 * 24,
            2 * (64 * 16 + 9 * 16 + 16 * 24 + 2 * 64 * 24),
        ),
        (
            GlobalPool(1, 49, 16, (), Types.of("float16")),
            "global_pool 1x49x16 float16",
            49 * 16,
            2 * 50 * 16,
        ),
    ],
)
def test_workloads_are_named_and_counted(
    workload: Workload, text: str, flops: int, moved: int
) -> None:
    assert (str(workload), workload.flops, workload.bytes) == (text, flops, moved)
    assert parse(text) == workload


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pointwise 49x16x8 gates(0)", "step 'gates"),
        ("pointwise 49x16x8 add_channel gates(1)", "step 'gates"),
        ("pointwise 49x16x8 gates(2)", "not a multiple of its gates"),
        ("depthwise 1x7x7x16 gates(1)", "malformed"),
    ],
)
def test_text_of_no_workload_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


def test_addresses_on_arm_need_no_extension() -> None:
    workload, core = parse("depthwise 1x28x28x192 k3x3 s1x1 p1,1,1,1"), PRESETS["cortex-a76"]
    code = assembly(registry.build(workload, registry.default(workload, core), core), core)
    # One is of a thread's number.
    assert code.count("sxtw") <= 1
