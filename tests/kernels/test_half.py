"""CPU schedules in float16: their numbers against float32, their code, and the largest values.

What is built for a Cortex-A76 runs here, compiled for x86, and on an emulated A76.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from assembly import functions, loops
from board import Board

from mobilenet_tvm.compile.codegen.build import write_library
from mobilenet_tvm.compile.codegen.pass_context import lowering
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.compile.tuning.measure import parameters_of, random_arguments, tolerance
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu.parts import MOST_PRODUCTS, products_of_part
from mobilenet_tvm.schedules.workloads import FLOAT32, Pointwise, Types, Workload, parse
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

X86, A76 = PRESETS["x86"], PRESETS["cortex-a76"]

LAYERS = [
    "pointwise 196x64x48 float16 add_channel clip(0,6)",
    "pointwise 49x384x32 float16 add_channel add",  # sums of four parts
    "pointwise 7x184x20 float16 hard_swish",  # two parts, of 92
    "pointwise 13x6x11 float16 add_channel mul",  # no whole vector, no whole group of inputs
    "pointwise 5x101x8 float16",  # a prime number of inputs
    "pointwise 1x1280x1001 float16->float32 add_channel",  # dense
    "pointwise 1x40x16 float16 add_channel silu",
    "depthwise 1x14x14x32 k3x3 s1x1 p1,1,1,1 float16 add_channel clip(0,6)",
    "depthwise 2x7x7x24 k5x5 s2x2 p1,1,2,2 float16 add_channel hard_swish",
    "depthwise 1x1x1x16 k3x3 s1x1 p1,1,1,1 float16",
    "depthwise 1x8x6x7 k3x3 s2x2 p0,0,1,1 float16 mish",
    "depthwise 1x9x9x8 k3x3 s1x1 p2,2,2,2 d2x2 float16 sigmoid",
    "conv2d 1x17x17x3->12 k3x3 s2x2 p0,0,1,1 nchw float16 add_channel relu",
    "conv2d 2x8x8x3->16 k3x3 s1x1 p1,1,1,1 nhwc float16 add_channel hard_swish",
    "conv2d 1x20x20x3->16 k7x7 s2x2 p3,3,3,3 nchw float16 relu",  # sums of 147 in float32
    "conv2d 1x9x9x3->8 k3x3 s2x2 p0,0,0,0 nchw float16 add_channel",  # rounded, not padded
    "conv2d 1x6x6x4->16 k1x1 s1x1 p0,0,0,0 nhwc float16 relu",
    "conv2d 1x9x7x48->20 k3x3 s2x2 p0,1,1,0 nhwc float16*float16+float32 add_channel add",
    "conv2d 1x6x6x256->16 k3x3 s1x1 p1,1,1,1 nhwc float16*float16+float32 relu",
    "conv2d 1x7x7x12->12 k3x3 s1x1 p1,1,1,1 g3 nhwc float16*float16+float32 add_channel",
    "conv2d 2x5x5x9->7 k1x1 s2x2 p0,0,0,0 nhwc float16*float16+float32->float32",
    "depthwise_pointwise depthwise 1x8x8x128 k3x3 s1x1 p1,1,1,1 float16 add_channel relu -> "
    "24 add_channel add",
    "block conv2d 1x16x16x3->16 k3x3 s2x2 p0,0,1,1 nchw float16 add_channel relu -> "
    "depthwise_pointwise depthwise 1x8x8x16 k3x3 s1x1 p1,1,1,1 float16 add_channel relu -> "
    "8 add_channel",
    "block conv2d 1x8x8x8->48 k1x1 s1x1 p0,0,0,0 nhwc float16*float16+float32 clip(0,6) -> "
    "depthwise_pointwise depthwise 1x8x8x48 k3x3 s2x2 p0,0,1,1 float16 add_channel -> "
    "12 add_channel",
    "global_pool 1x49x160 float16",
    "global_pool 3x6x13 float16 hard_sigmoid",
]
#: Those that are also computed without an emulator.
QUICK = [LAYERS[number] for number in (1, 10, 12, 22)]

#: Runs each function of a library on the arrays of its name in a file, on the board.
RUN = """
import ctypes, sys, numpy as np, tvm_ffi
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
library, arrays, outputs = tvm_ffi.load_module("./layers.so"), np.load("arrays.npz"), {}
for name in dict.fromkeys(key.partition(".")[0] for key in arrays):
    count = sum(key.startswith(f"{name}.") for key in arrays)
    operands = [arrays[f"{name}.{i}"] for i in range(count)]
    library[name](*map(tvm_ffi.from_dlpack, operands))
    outputs[name] = operands[-1]
np.savez("outputs.npz", **outputs)
"""


def built(workload: Workload, target: Target) -> tuple[Any, list[Array]]:
    """Return a layer's function by its default decision, and arguments for it."""
    decision = registry.default(workload, target)
    func = registry.build(workload, decision, target)
    half = workload if workload.dtype == "float16" else workload.in_type("float16")
    return func, random_arguments(half, decision, parameters_of(func))[0]


def compiled(layers: list[Any], target: Target) -> Any:
    """Compile functions, named f0 and so on."""
    named = {f"f{n}": func.with_attr("global_symbol", f"f{n}") for n, func in enumerate(layers)}
    with lowering(tvm.IRModule(named), target) as complete:
        return tvm.compile(complete, target=llvm_target(target))


def call(layers: list[tuple[Any, list[Array]]]) -> list[Array]:
    """Compile functions for this machine and return their outputs."""
    module, outputs = compiled([func for func, _ in layers], X86), []
    for number, (_, arrays) in enumerate(layers):
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        module[f"f{number}"](*tensors)
        outputs.append(np.asarray(tensors[-1].numpy()))
    return outputs


def check(outputs: list[Array], texts: list[str]) -> None:
    """Compare the results of layers with those in float32, of the same numbers."""
    workloads = list(map(parse, texts))
    expected = call([built(workload.in_type("float32"), X86) for workload in workloads])
    for workload, output, right in zip(workloads, outputs, expected, strict=True):
        scale = float(np.abs(right).max())
        difference = np.abs(output.reshape(right.shape).astype(np.float32) - right).max()
        # Of float32 it would be less.
        assert 1e-5 * scale < difference <= scale * tolerance(workload, right.size), workload


def test_layers_compute_nearly_as_in_float32() -> None:
    check(call([built(parse(text), A76) for text in QUICK]), QUICK)


@pytest.mark.full
def test_an_emulated_core_computes_nearly_as_in_float32(board: Board, tmp_path: Path) -> None:
    named, arrays = {}, {}
    for number, text in enumerate(LAYERS):
        func, arguments = built(parse(text), A76)
        named[f"f{number}"] = func.with_attr("global_symbol", f"f{number}")
        arrays |= {f"f{number}.{place}": array for place, array in enumerate(arguments)}
    write_library(tvm.IRModule(named), A76, tmp_path / "layers.so")
    np.savez(tmp_path / "arrays.npz", **arrays)
    result = board.run(["-c", RUN, str(board.runtime_library)], cpu="cortex-a76", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    outputs = np.load(tmp_path / "outputs.npz")
    check([outputs[f"f{number}"] for number in range(len(LAYERS))], LAYERS)


@pytest.mark.parametrize(
    "text",
    [
        "pointwise 196x576x96 float16 add_channel",
        pytest.param(
            "conv2d 1x14x14x64->64 k3x3 s1x1 p1,1,1,1 nhwc float16*float16+float32 relu",
            marks=pytest.mark.full,
        ),
        pytest.param(
            "depthwise_pointwise depthwise 1x14x14x128 k3x3 s1x1 p1,1,1,1 float16 relu -> 32",
            marks=pytest.mark.full,
        ),
    ],
)
def test_the_inner_loop_multiplies_vectors_of_eight(text: str) -> None:
    code = compiled([built(parse(text), A76)[0]], A76).mod.inspect_source("asm")
    inner = max(loops(code), key=lambda body: sum(part.name == "fmla" for part in body))
    products = [part.operands for part in inner if part.name == "fmla"]
    assert len(products) >= 4 * 8
    assert all(a.endswith(".8h") and b.endswith(".8h") and ".h[" in c for a, b, c in products)
    assert not [part for part in inner if part.name.startswith(("fcvt", "fadd", "fmul", "dup"))]
    assert sum(part.name.startswith("ld") for part in inner) < len(products) / 3


def test_depthwise_layers_multiply_vectors_of_eight() -> None:
    func, _ = built(parse("depthwise 1x14x14x64 k3x3 s1x1 p1,1,1,1 float16 add_channel"), A76)
    code = compiled([func], A76).mod.inspect_source("asm")
    parts = [part for blocks in functions(code).values() for block in blocks for part in block.body]
    products = [part.operands for part in parts if part.name in ("fmla", "fmul")]
    assert len(products) >= 9
    assert all(place.endswith(".8h") for place, *_ in products)
    assert not [part for part in parts if part.name.startswith("fcvt")]


@pytest.mark.parametrize(
    "layer",
    ["pointwise 196x64x96", "depthwise 1x14x14x96 k3x3 s1x1 p1,1,1,1", "global_pool 1x49x96"],
)
def test_decisions_are_for_vectors_twice_as_long(layer: str) -> None:
    single, half = parse(layer), parse(f"{layer} float16")
    for workload, lanes in ((single, 4), (half, 8)):
        decisions = registry.decisions(workload, A76)
        assert {vars(decision).get("lanes", lanes) for decision in decisions} == {lanes}
        tiles = [vars(d).get("tile_n") or vars(d)["tile_c"] for d in decisions]
        assert all(tile % lanes == 0 for tile in tiles)
        assert any(tile % 16 for tile in tiles)
        for decision in decisions:
            assert registry.decision(workload, vars(decision), A76) == decision


@pytest.mark.parametrize(("kernel", "dtype"), [(3, "float16"), (7, "float32")])
def test_a_stem_with_long_sums_multiplies_float32(kernel: int, dtype: str) -> None:
    text = f"conv2d 1x32x32x3->16 k{kernel}x{kernel} s2x2 p1,1,1,1 nchw float16 relu"
    func, arrays = built(parse(text), A76)
    assert str(func.params[1].ty.dtype) == str(arrays[1].dtype) == dtype


def test_blocks_with_a_stem_have_decisions_on_a_core_with_one_unit() -> None:
    (text,) = [text for text in LAYERS if text.startswith("block") and "nchw" in text]
    workload, core = parse(text), PRESETS["cortex-a55"]
    found = registry.decisions(workload, core)
    assert {vars(decision)["first_c"] for decision in found} == {8, 16}


def test_parts_of_sums_are_short_and_divide_them() -> None:
    half = Types.of("float16")
    for inputs in (24, 96, 144, 184, 200, 320, 960, 1280, 97, 1030):
        part = products_of_part(inputs, half)
        assert part <= MOST_PRODUCTS
        assert inputs % part == 0
        assert inputs % 4 or part % 4 == 0
        assert products_of_part(inputs, FLOAT32) == inputs


@pytest.mark.parametrize(
    ("inputs", "value", "infinite"),
    [
        (64, 40.0, True),  # 64 * 1600
        (64, 30.0, False),
        (384, 14.0, True),  # no part of it exceeds the largest number
        (384, 13.0, False),
    ],
)
def test_what_exceeds_float16_is_infinite(inputs: int, value: float, infinite: bool) -> None:
    workload = Pointwise(4, inputs, 8, types=Types.of("float16"))
    func, arrays = built(workload, A76)
    arrays[0][:], arrays[1][:] = value, value
    (result,) = call([(func, arrays)])
    expected = np.inf if infinite else inputs * value**2
    np.testing.assert_allclose(result, np.full((4, 8), expected), rtol=1e-2)
