"""Integer schedules: results equal to integer arithmetic to the bit.

Each test runs on every x86 instruction set; in the quick tier, on AVX-512 VNNI alone but for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from integer_machines import MACHINES, Machine
from integer_shapes import (
    DEPTHWISE,
    EPILOGUES,
    FUSED,
    POINTWISE,
    QUANTIZED,
    STEMS,
    WEIGHTS,
    depthwise,
    few,
    fused,
    layer,
    stem,
)
from numpy_integers import Layer, Quantization, problem

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu.base import PARALLEL_FLOPS
from mobilenet_tvm.schedules.workloads import Depthwise, Pointwise
from mobilenet_tvm.targets.presets import PRESETS

QUICK = "avx512-vnni"


@pytest.mark.parametrize("name", [machine.name for machine in MACHINES])
def test_a_layer_of_each_kind(name: str) -> None:
    machine = next(machine for machine in MACHINES if machine.name == name)
    if (reason := machine.missing()) is not None:
        pytest.skip(reason)
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


@WEIGHTS
@pytest.mark.parametrize("shape", few(FUSED))
def test_fused_halves(shape: tuple[int, Depthwise], weights: str, machine: Machine) -> None:
    # Every other one has a table between the halves, the others behind both.
    tables = [QUANTIZED, (*QUANTIZED, "lookup")]
    number = FUSED.index(shape) % 2
    workload = fused(shape, machine, tables[1 - number], tables[number], weights)
    machine.check_default(problem(workload, machine.dtype))


@pytest.mark.parametrize("shape", few(FUSED[3:6], 3))
def test_decisions_of_fused_halves(shape: tuple[int, Depthwise], machine: Machine) -> None:
    made = problem(fused(shape, machine), machine.dtype)
    decisions = registry.decisions(made.workload, machine.target)
    chosen = decisions[:: -(-len(decisions) // 4)]
    machine.check(*((made, decision) for decision in chosen))


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
