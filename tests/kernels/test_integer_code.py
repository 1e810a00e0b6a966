"""Integer schedules: the instructions that they come to on x86."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from assembly import assembly, loops
from integer_machines import Machine
from integer_shapes import WEIGHTS, depthwise, layer, stem
from numpy_integers import Layer

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Pointwise

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
