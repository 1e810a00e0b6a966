"""Convolutions over many channels: numbers against NumPy, sizes at the edges, the inner loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from assembly import assembly, loops
from guarded import call_all
from numpy_layers import normal, window_sums, with_epilogue

from mobilenet_tvm.compile.codegen.pass_context import PASS_CONFIG
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu.convolution import SCHEDULE, Decision
from mobilenet_tvm.schedules.stages import is_per_channel
from mobilenet_tvm.schedules.workloads import Convolution, parse
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]
X86 = PRESETS["x86"]

#: Sizes at the edges: of images, channels, windows, strides, steps between taps, and groups.
EDGES = [
    "conv2d 1x7x5x9->3 k3x3 s1x1 p1,1,1,1 nhwc add_channel relu",
    "conv2d 2x7x9x17->24 k3x3 s2x2 p0,0,1,1 nhwc add_channel clip(0,6) add",
    "conv2d 1x1x1x16->40 k3x3 s1x1 p1,1,1,1 nhwc",
    "conv2d 1x9x8x16->40 k5x3 s1x2 p2,1,2,1 d1x2 nhwc add_channel",
    "conv2d 1x12x11x10->33 k3x3 s1x1 p2,2,2,2 d2x2 nhwc add_channel hard_swish",
    "conv2d 1x10x11x12->24 k3x3 s1x1 p1,1,1,1 g3 nhwc add_channel",
    "conv2d 1x10x11x16->64 k3x3 s1x1 p1,1,1,1 g2 nhwc add_channel add",
    "conv2d 1x6x6x8->24 k3x3 s2x2 p1,1,1,1 g8 nhwc add_channel",
    "conv2d 2x8x7x37->111 k5x3 s2x2 p0,0,0,0 g37 nhwc add_channel add",
    "conv2d 1x9x9x15->9 k3x3 s1x1 p1,1,1,1 d2x2 g3 nhwc mul_channel",
    "conv2d 1x28x28x16->17 k1x1 s2x2 p0,0,0,0 nhwc add_channel",
    "conv2d 1x20x20x12->16 k1x7 s1x1 p0,3,0,3 nhwc add_channel mul",
    "conv2d 1x1x40x9->12 k1x3 s1x1 p0,1,0,1 nhwc add_channel",
    "conv2d 3x13x13x20->100 k3x3 s1x1 p0,0,0,0 nhwc add_channel",
    "conv2d 1x19x19x16->21 k9x9 s1x1 p4,4,4,4 nhwc add_channel prelu",
    "conv2d 1x14x14x64->48 k3x3 s1x1 p1,1,1,1 nhwc add_channel silu",
]
#: Groups of a single input, a register tile of which has several.
GROUPS = [
    "conv2d 1x9x11x7->14 k3x3 s1x1 p1,1,1,1 g7 nhwc add_channel relu",
    "conv2d 1x6x9x12->60 k1x3 s1x1 p0,1,0,1 d1x2 g12 nhwc add_channel",
    "conv2d 1x7x7x32->64 k3x3 s1x1 p1,1,1,1 g32 nhwc add_channel hard_swish",
]


def problem(workload: Convolution) -> tuple[list[Array], list[Array], Array]:
    """Return data and weights, operands of the epilogue, and the right result."""
    data = normal(workload.batch, workload.height, workload.width, workload.inputs, seed=1)
    weight = normal(*workload.weights[0], seed=2)
    expected, operands = with_epilogue(window_sums(data, weight, workload), workload.epilogue)
    return [data, weight], operands, expected


def check(workload: Convolution, decisions: Sequence[Decision], target: Target = X86) -> None:
    """Compare what decisions compute with NumPy, twice, next to pages that cannot be touched."""
    (data, weight), operands, expected = problem(workload)
    functions, arguments = {}, []
    for index, decision in enumerate(decisions):
        func = registry.build(workload, decision, target)
        functions[f"layer_{index}"] = func.with_attr("global_symbol", f"layer_{index}")
        arranged = [
            registry.arrange(decision, operand) if is_per_channel(parameter.name) else operand
            for parameter, operand in zip(func.params[2:], operands, strict=False)
        ]
        arrays = [data, *registry.pack(decision, [weight]), *arranged]
        arrays.append(np.full(workload.output_shape, np.nan, np.float32))
        arguments.append([np.ascontiguousarray(array).reshape(-1) for array in arrays])
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        built = tvm.compile(tvm.IRModule(functions), target=llvm_target(X86))
    results = call_all([built[name] for name in functions], arguments, guarded=True)
    assert len(results) == 2 * len(decisions)
    for result in results:
        found = result.reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=2e-6 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("target", ["x86", "x86-avx512", "cortex-a53", "cortex-a76"])
@pytest.mark.parametrize(
    "text", [*EDGES, *(pytest.param(text, marks=pytest.mark.full) for text in GROUPS)]
)
def test_edges_by_default(text: str, target: str) -> None:
    # ARM's loads of four inputs are compiled for x86 here.
    machine, workload = PRESETS[target], parse(text)
    assert isinstance(workload, Convolution)
    assert registry.find(workload, machine) is SCHEDULE
    check(workload, [SCHEDULE.default(workload, machine)], machine)


@pytest.mark.parametrize(
    "text",
    [
        "conv2d 2x6x5x12->24 k3x3 s1x1 p1,1,1,1 nhwc add_channel",
        "conv2d 1x8x7x9->20 k3x2 s2x1 p0,1,1,0 d1x3 nhwc add_channel add",
        "conv2d 1x6x6x16->32 k3x3 s1x1 p1,1,1,1 g2 nhwc add_channel",
        "conv2d 1x6x6x12->36 k3x3 s1x1 p1,1,1,1 g12 nhwc add_channel",
    ],
)
def test_decisions(text: str) -> None:
    workload = parse(text)
    assert isinstance(workload, Convolution)
    decisions = SCHEDULE.decisions(workload, X86)
    assert all(SCHEDULE.valid(workload, decision, X86) for decision in decisions)
    check(workload, decisions[:: -(-len(decisions) // 24)])


@pytest.mark.parametrize("change", [{"tile_c": 12}, {"tile_x": 40}, {"unroll": 3}, {"band": 100}])
def test_decisions_that_do_not_fit_are_refused(change: dict[str, int]) -> None:
    workload = parse("conv2d 1x14x14x64->48 k3x3 s1x1 p1,1,1,1 nhwc add_channel")
    good = vars(registry.default(workload, X86))
    assert registry.decision(workload, good, X86)
    with pytest.raises(ValueError, match="does not fit"):
        registry.decision(workload, good | change, X86)


def test_what_the_log_may_name() -> None:
    text = "conv2d 1x12x11x16->32 k3x3 s1x1 p2,2,2,2 d2x2 g4 nhwc float32->float32 relu"
    workload = parse(text.replace(" float32->float32", ""))
    assert isinstance(workload, Convolution)
    assert (workload.window.dilation, workload.groups) == ((2, 2), 4)
    assert workload.weights == ((3, 3, 4, 32),)
    assert workload.flops == 2 * 12 * 11 * 32 * 9 * 4
    with pytest.raises(ValueError, match="groups"):
        parse("conv2d 1x12x11x16->32 k3x3 s1x1 p2,2,2,2 g3 nhwc")


@pytest.mark.parametrize("target", ["x86", "x86-avx512", "cortex-a76"])
@pytest.mark.parametrize(
    "text",
    [
        "conv2d 1x56x56x64->64 k3x3 s1x1 p1,1,1,1 nhwc add_channel relu",
        "conv2d 1x7x7x512->512 k3x3 s1x1 p1,1,1,1 nhwc add_channel relu",
    ],
)
def test_the_inner_loop_multiplies_from_registers(text: str, target: str) -> None:
    machine, workload = PRESETS[target], parse(text)
    code = assembly(registry.build(workload, registry.default(workload, machine), machine), machine)
    bodies = [[str(line) for line in body] for body in loops(code)]
    body = max(bodies, key=lambda lines: sum("fm" in line for line in lines))
    products = sum("vfmadd" in line or "fmla" in line for line in body)
    assert products >= 16
    spilled = [line for line in body if "(%rsp)" in line or "[sp" in line]
    assert len(spilled) <= products / 16
    assert len(body) <= 2.3 * products


@pytest.mark.full
@pytest.mark.parametrize("target", ["x86", "x86-avx512", "cortex-a76"])
@pytest.mark.parametrize(("channels", "multiplier"), [(32, 2), (24, 3), (7, 2)])
def test_vectors_of_outputs_of_several_groups(channels: int, multiplier: int, target: str) -> None:
    size = f"1x14x14x{channels}->{channels * multiplier}"
    workload = parse(f"conv2d {size} k3x3 s1x1 p1,1,1,1 g{channels} nhwc add_channel relu")
    decision = registry.default(workload, PRESETS[target])
    assert isinstance(decision, Decision)
    assert decision.tile_c > multiplier
    assert decision.lanes >= 4
