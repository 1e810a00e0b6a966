"""Integer schedules on ARM: results equal to integer arithmetic to the bit, on the emulated board.

The layers of a test are computed in one process, since its start takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest
from emulated_machines import MACHINES, EmulatedMachine
from integer_machines import check_guarded
from integer_shapes import (
    DEPTHWISE,
    EPILOGUES,
    FUSED,
    PARTIAL,
    POINTWISE,
    QUANTIZED,
    STEMS,
    depthwise,
    fused,
    layer,
    stem,
)
from numpy_integers import Layer, Problem, Quantization, problem

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Pointwise

pytestmark = pytest.mark.usefixtures("board")

SHAPES = [Pointwise(5, 7, 19), depthwise((1, 4, 5, 18)), stem("float32 nchw", (1, 9, 9, 3, 12))]


@pytest.fixture(params=MACHINES, ids=lambda machine: machine.name)
def machine(request: pytest.FixtureRequest) -> EmulatedMachine:
    found: EmulatedMachine = request.param
    return found


@pytest.mark.parametrize("weights", ["int8", "int16"])
def test_sizes_at_the_edges(weights: str, machine: EmulatedMachine) -> None:
    if weights == "int16" and machine.name != "neon":
        pytest.skip("weights of 16 bits are multiplied as on neon")
    shapes: Iterable[Layer] = (*POINTWISE, *DEPTHWISE, *STEMS)
    machine.check_default(
        *(problem(layer(shape, machine, weights=weights), machine.dtype) for shape in shapes)
    )


def test_epilogues(machine: EmulatedMachine) -> None:
    shapes = [POINTWISE[5], DEPTHWISE[2], STEMS[0]]
    machine.check_default(
        *(
            problem(layer(shape, machine, steps), machine.dtype)
            for shape, steps in product(shapes, EPILOGUES)
        )
    )


def test_fused_halves(machine: EmulatedMachine) -> None:
    steps = (*QUANTIZED, "lookup")
    made = [problem(fused(shape, machine, QUANTIZED, steps), machine.dtype) for shape in FUSED]
    machine.check_default(*made)
    decisions = registry.decisions(made[5].workload, machine.target)
    machine.check(*((made[5], decision) for decision in decisions[:: -(-len(decisions) // 4)]))


def test_zero_points_bounds_and_scales(machine: EmulatedMachine) -> None:
    options = [
        *({"zero": zero, "result_zero": other} for zero, other in product((0, 128, 255), (0, 255))),
        *({"result_zero": 40, "bounds": bounds} for bounds in ((3, 150), (77, 255), (200, 200))),
        *({"result_zero": 77, "reach": reach} for reach in (100.0, 1e4, 1e5)),
    ]
    machine.check_default(
        *(
            problem(layer(shape, machine), machine.dtype, Quantization.of(machine.dtype, **how))
            for shape, how in product(SHAPES, options)
        )
    )


def test_decisions(machine: EmulatedMachine) -> None:
    shapes = [Pointwise(6, 8, 72), depthwise((1, 4, 6, 70)), stem("bytes nhwc", (1, 12, 12, 3, 40))]
    jobs = []
    for shape in shapes:
        made = problem(layer(shape, machine, (*QUANTIZED, "add_quantized")), machine.dtype)
        decisions = registry.decisions(made.workload, machine.target)
        jobs += [(made, decision) for decision in decisions[:: -(-len(decisions) // 8)]]
    assert len(jobs) > len(shapes)
    machine.check(*jobs)


def test_nothing_outside_the_arguments_is_touched(machine: EmulatedMachine) -> None:
    made: list[Problem] = []
    for number, shape in enumerate(PARTIAL):
        last = ("add_quantized", "lookup", "dequantize")[number % 3]
        steps = (last,) if last == "dequantize" else (*QUANTIZED, last)
        made.append(problem(layer(shape, machine, steps), machine.dtype))
    check_guarded(machine, made)
