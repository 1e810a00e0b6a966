"""Pointwise layers by AMX equal integer arithmetic to the bit; skipped where there is no AMX."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from assembly import assembly
from integer_machines import Machine
from numpy_integers import Quantization, problem

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu.integer.amx_pointwise import SCHEDULE, Decision
from mobilenet_tvm.schedules.workloads import Pointwise, Step, Types
from mobilenet_tvm.targets.presets import PRESETS

MACHINE = Machine(PRESETS["x86-amx"])
QUANTIZED = ("add_channel", "requantize")


@pytest.fixture
def machine() -> Machine:
    if (reason := MACHINE.missing()) is not None:
        pytest.skip(reason)
    return MACHINE


def layer(pixels: int, inputs: int, outputs: int, steps: Sequence[str] = QUANTIZED) -> Pointwise:
    types = Types("uint8", "int8", "int32", "uint8")
    return Pointwise(pixels, inputs, outputs, tuple(map(Step, steps)), types)


SIZES = [(32, 64, 16), (33, 48, 17), (49, 96, 24), (50, 64, 3), (63, 128, 40), (97, 56, 100)]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_at_the_edges(size: tuple[int, int, int], machine: Machine) -> None:
    workload = layer(*size)
    assert registry.find(workload, machine.target) is SCHEDULE
    machine.check_default(problem(workload, machine.dtype))


@pytest.mark.parametrize("last", ["lookup", "add_quantized", "add_quantized_second"])
def test_epilogues(last: str, machine: Machine) -> None:
    machine.check_default(problem(layer(49, 64, 40, (*QUANTIZED, last)), machine.dtype))


@pytest.mark.parametrize("zero", [0, 255])
def test_zero_points_at_the_ends_of_their_range(zero: int, machine: Machine) -> None:
    how = Quantization.of(machine.dtype, zero, zero)
    machine.check_default(problem(layer(40, 64, 24), machine.dtype, how))


def test_every_decision(machine: Machine) -> None:
    workload = layer(50, 64, 40)
    decisions = registry.decisions(workload, machine.target)
    assert len({decision.rows for decision in decisions if isinstance(decision, Decision)}) > 1
    given = problem(workload, machine.dtype)
    machine.check(*[(given, decision) for decision in decisions])


def test_nothing_outside_the_arguments_is_read(machine: Machine) -> None:
    machine.check_default(problem(layer(64, 64, 64), machine.dtype), guarded=True)


def test_products_are_those_of_tiles() -> None:
    workload = layer(196, 512, 512)
    target = PRESETS["x86-amx"]
    decision = registry.default(workload, target)
    text = assembly(registry.build(workload, decision, target), target)
    products = re.findall(r"\btdpbusd\b", text)
    assert products
    assert len(products) % 4 == 0
    assert "vpdpbusd" not in text


@pytest.mark.parametrize(
    "workload", [layer(31, 64, 16), layer(64, 24, 16), layer(64, 160, 16), layer(1, 64, 16)]
)
def test_small_or_uneven_layers_are_left_to_vpdpbusd(workload: Pointwise) -> None:
    assert registry.find(workload, PRESETS["x86-amx"]) is not SCHEDULE
