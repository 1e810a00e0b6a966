"""The inner loops of ARM code, cut out of the assembly and judged by LLVM's machine-code analyser.

No board is needed: llvm-mca (Debian's package llvm) knows how many cycles a loop takes on a
core. The limit is what the core needs for the multiply-adds alone. What is wrong with LLVM's models
of the in-order cores, and how it is mended, is in tests/helpers/llvm_mca.py.

A loop that keeps m x n sums in registers cannot do better on an A53 than m n / (m n + 2 (m + n)),
which is 67 % for 8 x 8 and 65 % for 7 x 8. An A55 starts a load of 64 bits together with a
multiply-add.
"""

from __future__ import annotations

import re
import shutil

import pytest
from assembly import assembly, loops
from llvm_mca import cycles

from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Pointwise, Step, Workload
from mobilenet_tvm.targets.presets import PRESETS

MCA = shutil.which("llvm-mca")
pytestmark = pytest.mark.skipif(MCA is None, reason="llvm-mca is missing: apt-get install llvm")

#: Every pointwise layer of MobileNetV2 at alpha 1.0, resolution 224.
LAYERS = [
    (12544, 32, 16), (12544, 16, 96), (3136, 96, 24), (3136, 24, 144), (3136, 144, 24),
    (784, 144, 32), (784, 32, 192), (784, 192, 32), (196, 192, 64), (196, 64, 384),
    (196, 384, 64), (196, 384, 96), (196, 96, 576), (196, 576, 96), (49, 576, 160),
    (49, 160, 960), (49, 960, 160), (49, 960, 320), (49, 320, 1280),
]  # fmt: skip

IN_ORDER = ("cortex-a53", "cortex-a55")

EPILOGUE = (Step("add_channel"), Step("clip", (0.0, 6.0)))


def hot_loop(workload: Workload, cpu: str) -> list[str]:
    """Return the instructions of a layer's loop that has the most multiply-adds by element."""
    machine = PRESETS[cpu]
    func = registry.build(workload, registry.default(workload, machine), machine)
    bodies = [[str(part) for part in body] for body in loops(assembly(func, machine))]
    return max(bodies, key=count)


def count(body: list[str]) -> int:
    return sum("fmla" in line for line in body)


def cycles_of(body: list[str], cpu: str) -> float:
    """Return the cycles of one iteration."""
    (found,) = cycles([body], PRESETS[cpu])
    return found


def limit(cpu: str) -> float:
    """Return the multiply-adds that a core can do in a cycle."""
    body = [f"\tfmla\tv{register}.4s, v30.4s, v31.s[0]" for register in range(24)]
    return count(body) / cycles_of(body, cpu)


@pytest.mark.parametrize(
    ("cpu", "least"),
    [("cortex-a53", 0.62), ("cortex-a55", 0.70), ("cortex-a72", 0.95), ("cortex-a76", 0.95)],
)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: "x".join(map(str, layer)))
def test_pointwise_hot_loop_is_near_the_cores_limit(
    layer: tuple[int, int, int], cpu: str, least: float
) -> None:
    check(Pointwise(*layer, EPILOGUE), cpu, least)


def check(workload: Workload, cpu: str, least: float) -> None:
    body = hot_loop(workload, cpu)
    assert count(body) >= 8
    assert all(re.search(r"v\d+\.s\[\d\]$", line) for line in body if "fmla" in line)
    # Two inputs of a pixel at a time; what is loaded alone costs an in-order core a cycle.
    assert not [line for line in body if re.match(r"\tld\w+\ts\d|\tld1r", line)], "narrow loads"
    assert not [line for line in body if "[sp" in line], "spills"
    share = count(body) / cycles_of(body, cpu) / limit(cpu)
    assert share >= least, f"{share:.1%} of the core's limit"


def test_the_in_order_cores_do_one_multiply_add_in_a_cycle() -> None:
    assert [round(limit(cpu), 2) for cpu in IN_ORDER] == [1, 1]
