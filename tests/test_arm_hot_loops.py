"""The inner loops of ARM code, cut out of the assembly and judged by LLVM's machine-code analyser.

No board is needed: llvm-mca (Debian's package llvm) knows how many cycles a loop takes on a
core. The limit is what the core needs for the multiply-adds alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import tvm

from mobilenet_tvm.compile.codegen import PASS_CONFIG
from mobilenet_tvm.compile.pipeline import llvm_target
from mobilenet_tvm.schedules import pointwise
from mobilenet_tvm.schedules.workload import Pointwise, Step
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


def hot_loop(layer: tuple[int, int, int], target: str) -> list[str]:
    """Return the instructions of a layer's loop that has the most multiply-adds."""
    machine = PRESETS[target]
    workload = Pointwise(*layer, (Step("add_channel"), Step("clip", (0.0, 6.0))))
    func = pointwise.build(workload, pointwise.default(workload, machine), machine)
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        built = tvm.tirx.build(func, target=llvm_target(machine))
    lines = built.inspect_source("asm").splitlines()
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


def count(body: list[str]) -> int:
    return sum("fmla" in line for line in body)


def cycles(body: list[str], cpu: str) -> float:
    """Return the cycles of one iteration."""
    command = [str(MCA), "-march=aarch64", f"-mcpu={cpu}", "-iterations=200"]
    result = subprocess.run(
        command, input="\n".join(body) + "\n", capture_output=True, text=True, check=True
    )
    total = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
    assert total is not None
    return int(total[1]) / 200


def limit(cpu: str) -> float:
    """Return the multiply-adds that a core can do in a cycle."""
    body = [f"\tfmla v{register}.4s, v30.4s, v31.s[0]" for register in range(24)]
    return count(body) / cycles(body, cpu)


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: "x".join(map(str, layer)))
def test_pointwise_hot_loop_is_near_the_cores_limit(layer: tuple[int, int, int], cpu: str) -> None:
    body = hot_loop(layer, cpu)
    share = count(body) / cycles(body, cpu) / limit(cpu)
    assert count(body) >= 8
    assert all(re.search(r"v\d+\.s\[\d\]|v\d+\.4s$", line) for line in body if "fmla" in line)
    assert share >= 0.85, f"{share:.0%} of the core's limit"
    assert not [line for line in body if "[sp" in line], "spills"
