"""Cycles of instructions by LLVM's machine-code analyser, llvm-mca (Debian's package llvm).

Its models of the two in-order cores are wrong where it matters (LLVM 14 to 19). Both load 128
bits in one cycle; the cores load 64, and start no multiply-add beside a load of 128. The A55's
does two 128-bit multiply-adds in a cycle; the core does one. The A53's lets nothing that follows
a multiply-add end before it, ten cycles later; the core does, and adds to the sum after four. So
the loops of both are spelled anew, in instructions that cost in the A55's model what the real
ones cost in the core. Sources: for the A53, github.com/ocxtal/insn_bench_aarch64; for the A55,
Arm's software optimization guide as github.com/slothy-optimizer/slothy models it; which loads
start with a multiply-add, docs/developer-guide/arm-a53-a55-dual-issue.md of Tencent's ncnn; one
multiply-add a cycle on both, github.com/pigirons/cpufp, RK3399 and RK3588.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

_IN_ORDER = ("cortex-a53", "cortex-a55")
#: Instructions that are simulated per region, and the fewest and most iterations of it. A pipeline
#: that fills and empties once adds some cycles to them all.
_SIMULATED, _FEWEST, _MOST = 3000, 4, 200


def find_llvm_mca() -> str:
    """Return the path of llvm-mca.

    Raises
    ------
    UserError
        If it is missing.
    """
    path = shutil.which("llvm-mca")
    if path is None:
        raise UserError("llvm-mca is missing, which counts cycles; apt-get install llvm")
    return path


def cycles(regions: Sequence[Sequence[str]], target: Target) -> list[float]:
    """Return the cycles of one iteration of each region, run again and again.

    Parameters
    ----------
    regions : sequence of sequence of str
        Lines of assembly.
    target : Target
        LLVM takes the model that it has for its `cpu`.

    Raises
    ------
    UserError
        If llvm-mca is missing or does not know an instruction.
    """
    if target.cpu in _IN_ORDER:
        regions = [[new for line in body for new in spelled(line, target.cpu)] for body in regions]
    # One call for all regions that iterate equally often.
    groups: dict[int, list[int]] = {}
    for index, body in enumerate(regions):
        wanted = min(_MOST, max(_FEWEST, _SIMULATED // max(1, len(body))))
        groups.setdefault(1 << wanted.bit_length() - 1, []).append(index)
    found = [0.0] * len(regions)
    for iterations, members in groups.items():
        totals = _totals([regions[index] for index in members], target, iterations)
        for index, total in zip(members, totals, strict=True):
            found[index] = total / iterations
    return found


def spelled(instruction: str, core: str) -> list[str]:
    """Return what costs in LLVM's model of the A55 as much as an instruction in an in-order core.

    Registers stay, so that what waits for what is the same.
    """
    if fmla := re.match(r"\tfmla\t(\S+), (\S+), (v\d+)\.", instruction):
        # One a cycle, its sum ready after four.
        return [f"\tmla\t{fmla[1]}, {fmla[2]}, {fmla[3]}.4s"]
    if pair := re.match(r"\tldp\t(\w+), (\w+), \[(\w+)", instruction):
        loads = [f"\tldr\t{register}, [{pair[3]}]" for register in pair.groups()[:2]]
        return [line for load in loads for line in spelled(load, core)]
    if load := re.match(r"\tldu?r\t([sdq])(\d+), \[(\w+)", instruction):
        kind, register, base = load.groups()
        if core == "cortex-a55" and kind != "q":
            return [f"\tld1\t{{ v{register}.2s }}, [{base}]"]
        # A cycle without a multiply-add for each 64 bits.
        return [f"\tldr\tq{register}, [{base}]"] * (2 if kind == "q" else 1)
    return [instruction]


def _totals(regions: Sequence[Sequence[str]], target: Target, iterations: int) -> list[int]:
    # LLVM 14 does not find these words behind ARM's own sign of a comment.
    lines = [
        line for body in regions for line in ("# LLVM-MCA-BEGIN loop", *body, "# LLVM-MCA-END")
    ]
    core = "cortex-a55" if target.cpu in _IN_ORDER else target.cpu
    command = [
        find_llvm_mca(),
        f"-march={target.architecture.replace('_', '-')}",
        f"-mcpu={core}",
        f"-iterations={iterations}",
        "-summary-view",
        "-instruction-info=false",
        "-resource-pressure=false",
    ]
    result = subprocess.run(
        command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    totals = [int(total) for total in re.findall(r"Total Cycles:\s+(\d+)", result.stdout)]
    if len(totals) != len(regions):
        reason = next((line for line in result.stderr.splitlines() if "error" in line), "no cycles")
        raise UserError(f"llvm-mca cannot judge code for '{target.name}' ({reason.strip()})")
    return totals
