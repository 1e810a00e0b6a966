"""Integer schedules: results equal to integer arithmetic to the bit, bounds, and instructions.

Each test runs on every x86 instruction set; in the quick tier, on AVX-512 VNNI alone but for one.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from integer_machines import ALIGNMENT, MACHINES, Machine, Place, check_guarded
from numpy_integers import Layer, Quantization, problem

from mobilenet_tvm.compile.analysis.assembly import loops
from mobilenet_tvm.compile.tuning.static.estimate import assembly
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu.base import PARALLEL_FLOPS
from mobilenet_tvm.schedules.workloads import Convolution, Depthwise, Pointwise, Step, Types, Window
from mobilenet_tvm.targets.presets import PRESETS

QUICK = "avx512-vnni"
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
#: Machines that multiply weights of 16 bits as another does, and that other one.
AS_ELSEWHERE = {"avx-vnni": "avx2", "avx512bw": "avx512-vnni"}
SAME = (1, 1, 1, 1)


@pytest.fixture(
    params=[
        pytest.param(
            machine, id=machine.name, marks=() if machine.name == QUICK else pytest.mark.full
        )
        for machine in MACHINES
    ]
)
def machine(request: pytest.FixtureRequest) -> Machine:
    return usable(request.param)


@pytest.fixture
def weights(request: pytest.FixtureRequest, machine: Machine) -> str:
    """Return the type of the weights, unless another machine tries the same instructions."""
    dtype = str(request.param)
    if dtype == "int16" and machine.name in AS_ELSEWHERE:
        pytest.skip(f"weights of 16 bits are multiplied as on {AS_ELSEWHERE[machine.name]}")
    return dtype


def usable(machine: Machine) -> Machine:
    """Return a machine, or skip the test, saying why."""
    if (reason := machine.missing()) is not None:
        pytest.skip(reason)
    return machine


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


def few(shapes: Sequence[Layer], every: int = 2) -> list[Any]:
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
]


@pytest.mark.parametrize("name", [machine.name for machine in MACHINES])
def test_a_layer_of_each_kind(name: str) -> None:
    machine = usable(next(machine for machine in MACHINES if machine.name == name))
    shapes = [Pointwise(11, 21, 36), depthwise((1, 5, 6, 21)), STEMS[0]]
    machine.check_default(*(problem(layer(shape, machine), machine.dtype) for shape in shapes))


@WEIGHTS
@pytest.mark.parametrize("shape", [p for kind in (POINTWISE, DEPTHWISE, STEMS) for p in few(kind)])
def test_sizes_at_the_edges(shape: Layer, weights: str, machine: Machine) -> None:
    machine.check_default(problem(layer(shape, machine, weights=weights), machine.dtype))


@pytest.mark.parametrize("steps", EPILOGUES, ids=lambda steps: "-".join(steps) or "sums")
@pytest.mark.parametrize(
    "shape", few([POINTWISE[5], STEMS[1], DEPTHWISE[2], DEPTHWISE[6], STEMS[0], POINTWISE[4]])
)
def test_epilogues(shape: Layer, steps: Sequence[str], machine: Machine) -> None:
    machine.check_default(problem(layer(shape, machine, steps), machine.dtype))


@pytest.mark.parametrize("zero", [0, 128, 255])
@pytest.mark.parametrize("result_zero", [0, pytest.param(128, marks=pytest.mark.full), 255])
def test_zero_points_at_the_ends_of_their_range(
    zero: int, result_zero: int, machine: Machine
) -> None:
    check_quantization(machine, zero=zero, result_zero=result_zero)


@pytest.mark.parametrize("bounds", [(3, 150), (0, 120), (77, 255), (200, 200)], ids=str)
def test_bounds_tightened_by_a_clip(bounds: tuple[int, int], machine: Machine) -> None:
    check_quantization(machine, result_zero=40, bounds=bounds)


@pytest.mark.parametrize("reach", [100.0, 1e4, 1e5])
def test_values_far_beyond_the_bounds_saturate(reach: float, machine: Machine) -> None:
    check_quantization(machine, result_zero=77, reach=reach)


@pytest.mark.parametrize("scale", [0.0187, 1 / 255, 0.3, 7.1, 1e-12, 1e12])
def test_float_images_are_divided_exactly(scale: float, machine: Machine) -> None:
    shape = layer(stem("float32 nchw", (2, 40, 67, 3, 8)), machine)
    how = Quantization.of(machine.dtype, zero=117, image_scale=scale)
    machine.check_default(problem(shape, machine.dtype, how))


def check_quantization(machine: Machine, **options: Any) -> None:
    """Check a layer of each kind with some zero points, bounds and scales."""
    how = Quantization.of(machine.dtype, **options)
    shapes = [Pointwise(5, 7, 19), depthwise((1, 4, 5, 18)), stem("float32 nchw", (1, 9, 9, 3, 12))]
    steps = [QUANTIZED, (*QUANTIZED, "add_quantized")]
    machine.check_default(
        *(
            problem(layer(shape, machine, epilogue), machine.dtype, how)
            for shape, epilogue in zip(shapes, [*steps, QUANTIZED], strict=True)
        )
    )


@pytest.mark.parametrize(
    "shape",
    few(
        [
            Pointwise(6, 8, 72),
            Pointwise(1, 12, 72),
            depthwise((1, 6, 6, 20), (5, 5), (2, 2), (2, 2, 2, 2)),
            depthwise((1, 4, 6, 70)),
            stem("float32 nchw", (1, 12, 12, 3, 40)),
        ]
    ),
)
def test_every_decision(shape: Layer, machine: Machine) -> None:
    made = problem(layer(shape, machine, (*QUANTIZED, "add_quantized", "lookup")), machine.dtype)
    decisions = registry.decisions(made.workload, machine.target)
    assert len(decisions) >= 2
    # All of them take minutes; these differ in each part.
    chosen = decisions[:: -(-len(decisions) // (4 if machine.name == QUICK else 12))]
    machine.check(*((made, decision) for decision in chosen))


def test_layers_that_threads_divide(machine: Machine) -> None:
    shapes = [
        Pointwise(784, 64, 96),
        depthwise((1, 56, 56, 80)),
        stem("float32 nchw", (1, 112, 112, 3, 32)),
    ]
    problems = [problem(layer(shape, machine), machine.dtype) for shape in shapes]
    assert all(p.workload.flops >= PARALLEL_FLOPS for p in problems)
    machine.check_default(*problems)


# Nothing is read or written outside ---------------------------------------------------------------

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


@pytest.fixture(scope="module")
def processes() -> Iterator[list[ProcessPoolExecutor]]:
    """Keep one process that may be killed, which tests share and replace."""
    kept: list[ProcessPoolExecutor] = []
    yield kept
    for pool in kept:
        pool.shutdown()


def in_another_process(kept: list[ProcessPoolExecutor], function: Any, *arguments: Any) -> None:
    if not kept:
        kept.append(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
    try:
        kept[0].submit(function, *arguments).result()
    except BrokenProcessPool:
        kept.clear()
        raise


@WEIGHTS
@pytest.mark.parametrize("shape", few(PARTIAL, 5))
def test_nothing_outside_the_arguments_is_touched(
    shape: Layer, weights: str, machine: Machine, processes: list[ProcessPoolExecutor]
) -> None:
    epilogues = [(*QUANTIZED, "add_quantized"), (*QUANTIZED, "lookup"), ("dequantize",)]
    problems = [
        problem(layer(shape, machine, steps, weights), machine.dtype) for steps in epilogues
    ]
    for made in problems:
        assert made.data.nbytes % ALIGNMENT == made.right[0].nbytes % ALIGNMENT == 0
    in_another_process(processes, check_guarded, machine, problems)


def read_behind() -> int:
    """Read the byte behind an argument."""
    array = Place(np.zeros(64, np.uint8), guarded=True, at_end=True).array
    return ctypes.string_at(array.ctypes.data + 64, 1)[0]


def test_what_reads_behind_a_guarded_argument_is_killed(
    processes: list[ProcessPoolExecutor],
) -> None:
    with pytest.raises(BrokenProcessPool):
        in_another_process(processes, read_behind)


# Structure ----------------------------------------------------------------------------------------

#: What multiplies weights of 8 bits, and of 16, and the most instructions of a loop for each.
#: With VNNI, LLVM makes one instruction of VPMADDWD and the addition; SSE4.1 copies registers.
MULTIPLY = {
    "avx512-vnni": ("vpdpbusd", "vpdpwssd|vpmaddwd", 2),
    "avx-vnni": ("vpdpbusd", "vpdpwssd|vpmaddwd", 2.2),
    "avx512bw": ("vpmaddwd", "vpmaddwd", 3),
    "avx2": ("vpmaddwd", "vpmaddwd", 3.2),
    "sse4.1": ("pmaddwd", "pmaddwd", 4),
}


def code(workload: Layer, machine: Machine) -> str:
    """Return the assembly of a layer by its default decision, without its encodings."""
    decision = registry.default(workload, machine.target)
    text = assembly(registry.build(workload, decision, machine.target), machine.target)
    return text.replace("\t{vex}\t", "\t")


def count(lines: Iterable[str], instructions: str) -> int:
    """Return how many lines are of some instructions."""
    return sum(re.match(rf"\t(?:{instructions})\t", line) is not None for line in lines)


@WEIGHTS
def test_the_hot_loop_of_a_product_multiplies_from_registers(
    weights: str, machine: Machine
) -> None:
    workload = layer(Pointwise(196, 96, 192), machine, weights=weights)
    *multiply, most = MULTIPLY[machine.name]
    instructions = str(multiply[weights == "int16"])
    bodies = [[str(part) for part in body] for body in loops(code(workload, machine))]
    body = max(bodies, key=lambda body: count(body, instructions))
    products = count(body, instructions)
    assert products >= 8
    assert not [line for line in body if "(%rsp)" in line or "(%rbp)" in line], "spills"
    assert len(body) <= most * products


@WEIGHTS
@pytest.mark.parametrize(
    "shape",
    [
        Pointwise(196, 96, 192),
        depthwise((1, 14, 14, 192)),
        depthwise((1, 14, 14, 192), (5, 5), (2, 2), (2, 2, 2, 2)),
        stem("float32 nchw", (1, 64, 64, 3, 32)),
        stem("bytes nhwc", (1, 64, 64, 3, 32)),
    ],
    ids=str,
)
def test_instructions_multiply_without_saturating_and_quantise_by_packing(
    shape: Layer, weights: str, machine: Machine
) -> None:
    text = code(layer(shape, machine, weights=weights), machine)
    assert count(text.splitlines(), str(MULTIPLY[machine.name][weights == "int16"])) >= 8
    assert "pmaddubsw" not in text
    assert "pmulld" not in text
    for part in ("cvtps2dq", "packssdw", "packuswb"):
        assert part in text


def test_blocks_of_a_product_divide_its_tiles() -> None:
    target = PRESETS["x86"]
    workload = layer(Pointwise(280, 64, 96), MACHINES[0])
    decision = registry.default(workload, target)
    tiles = -(-workload.pixels // decision.tile_m)
    for block in range(1, tiles + 2):
        chosen = {**vars(decision), "block_m": block}
        if tiles % block == 0:
            assert registry.decision(workload, chosen, target).block_m == block
        else:
            with pytest.raises(ValueError, match="does not fit"):
                registry.decision(workload, chosen, target)
