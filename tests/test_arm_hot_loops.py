"""The inner loops of ARM code, cut out of the assembly and judged by LLVM's machine-code analyser.

No board is needed: llvm-mca (Debian's package llvm) knows how many cycles a loop takes on a
core. The limit is what the core needs for the multiply-adds alone.

Its models of the two in-order cores are wrong where it matters (LLVM 14 to 19). Both load 128
bits in one cycle; the cores load 64, and start no multiply-add beside a load of 128. The A55's
does two 128-bit multiply-adds in a cycle; the core does one. The A53's lets nothing that follows
a multiply-add end before it, ten cycles later; the core does, and adds to the sum after four. So
the loops of both are spelled anew, in instructions that cost in the A55's model what the real
ones cost in the core. Sources: for the A53, github.com/ocxtal/insn_bench_aarch64; for the A55,
Arm's software optimization guide as github.com/slothy-optimizer/slothy models it; which loads
start with a multiply-add, docs/developer-guide/arm-a53-a55-dual-issue.md of Tencent's ncnn; one
multiply-add a cycle on both, github.com/pigirons/cpufp, RK3399 and RK3588.

A loop that keeps m x n sums in registers cannot do better on an A53 than m n / (m n + 2 (m + n)),
which is 67 % for 8 x 8 and 65 % for 7 x 8. An A55 starts a load of 64 bits together with a
multiply-add.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import tvm
from tvm import tirx

from mobilenet_tvm.compile.codegen import PASS_CONFIG
from mobilenet_tvm.compile.pipeline import llvm_target
from mobilenet_tvm.schedules import operators
from mobilenet_tvm.schedules.workload import Pointwise, Step, Workload
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
    func = operators.build(workload, operators.default(workload, machine), machine)
    lines = assembly(func, cpu).splitlines()
    labels = {line[:-1]: index for index, line in enumerate(lines) if re.match(r"\.LBB\w+:$", line)}
    best: list[str] = []
    for index, line in enumerate(lines):
        branch = re.search(r"\b(?:b\.\w+|cbn?z|tbn?z)\s.*?(\.LBB\w+)$", line)
        start = labels.get(branch[1], index) if branch else index
        body = [part for part in lines[start + 1 : index + 1] if re.match(r"\t[a-z]", part)]
        inner = any(part.startswith(".LBB") for part in lines[start + 1 : index])
        if start < index and not inner and count(body) > count(best):
            best = body
    return best


def assembly(func: tirx.PrimFunc, cpu: str) -> str:
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        built = tvm.tirx.build(func, target=llvm_target(PRESETS[cpu]))
    return str(built.inspect_source("asm"))


def count(body: list[str]) -> int:
    return sum("fmla" in line for line in body)


def cycles(body: list[str], cpu: str) -> float:
    """Return the cycles of one iteration."""
    if cpu in IN_ORDER:
        body = [line for instruction in body for line in spelled(instruction, cpu)]
        cpu = "cortex-a55"
    command = [str(MCA), "-march=aarch64", f"-mcpu={cpu}", "-iterations=200"]
    result = subprocess.run(
        command, input="\n".join(body) + "\n", capture_output=True, text=True, check=True
    )
    total = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
    assert total is not None
    return int(total[1]) / 200


def spelled(instruction: str, cpu: str) -> list[str]:
    """Return what costs in LLVM's model of the A55 as much as an instruction in an in-order core.

    Registers stay, so that what waits for what is the same.
    """
    if fmla := re.match(r"\tfmla\t(\S+), (\S+), (v\d+)\.", instruction):
        # One a cycle, its sum ready after four.
        return [f"\tmla\t{fmla[1]}, {fmla[2]}, {fmla[3]}.4s"]
    if pair := re.match(r"\tldp\t(\w+), (\w+), \[(\w+)", instruction):
        loads = [f"\tldr\t{register}, [{pair[3]}]" for register in pair.groups()[:2]]
        return [line for load in loads for line in spelled(load, cpu)]
    if load := re.match(r"\tldu?r\t([sdq])(\d+), \[(\w+)", instruction):
        kind, register, base = load.groups()
        if cpu == "cortex-a55" and kind != "q":
            return [f"\tld1\t{{ v{register}.2s }}, [{base}]"]
        # A cycle without a multiply-add for each 64 bits.
        return [f"\tldr\tq{register}, [{base}]"] * (2 if kind == "q" else 1)
    return [instruction]


def limit(cpu: str) -> float:
    """Return the multiply-adds that a core can do in a cycle."""
    body = [f"\tfmla\tv{register}.4s, v30.4s, v31.s[0]" for register in range(24)]
    return count(body) / cycles(body, cpu)


@pytest.mark.parametrize(
    ("cpu", "least"),
    [("cortex-a53", 0.62), ("cortex-a55", 0.68), ("cortex-a72", 0.95), ("cortex-a76", 0.95)],
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
    share = count(body) / cycles(body, cpu) / limit(cpu)
    assert share >= least, f"{share:.1%} of the core's limit"


def test_the_in_order_cores_do_one_multiply_add_in_a_cycle() -> None:
    assert [round(limit(cpu), 2) for cpu in IN_ORDER] == [1, 1]
