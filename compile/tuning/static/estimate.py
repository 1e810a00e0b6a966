"""Estimates the time of a layer from its machine code.

The cycles of the core are those of the generated code: for each path that `trace` finds, the cycles
that llvm-mca reports when it is repeated, times the number of times it runs. Memory traffic comes
from a simulation of the caches with every line that the code touches, which starts as for a layer
in a network: weights in memory, data in the second-level cache as far as they fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm

from mobilenet_tvm.compile.analysis.llvm_mca import cycles
from mobilenet_tvm.compile.codegen.pass_context import lowering
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.compile.tuning.static.caches import Caches
from mobilenet_tvm.compile.tuning.static.statements import LINE_BYTES
from mobilenet_tvm.compile.tuning.static.trace import Path, address_of, trace
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import TENSOR_STEPS, Workload
from mobilenet_tvm.targets.target import Target

#: llvm-mca analyses the most frequent paths up to this share of all instructions; the others are
#: assumed to take the same time per instruction.
_COVERAGE = 0.98


@dataclass(frozen=True)
class Estimate:
    """The estimated time of a layer.

    Parameters
    ----------
    cycles : float
        Cycles of the core if all loads hit the first-level cache.
    l2_cycles : float
        Cycles to transfer all lines from the second-level cache.
    memory_cycles : float
        Cycles to transfer all lines from memory.
    seconds : float
        Total time.
    """

    cycles: float
    l2_cycles: float
    memory_cycles: float
    seconds: float


def estimate(workload: Workload, decision: Decision, target: Target) -> Estimate:
    """Estimate the time of a layer on one core.

    Parameters
    ----------
    workload : Workload
        The layer.
    decision : Decision
        How it is computed.
    target : Target
        The machine, which must have a `core`.

    Raises
    ------
    UnknownInstructionError
        If the code contains an instruction that `trace` does not know.
    UserError
        If llvm-mca is missing.
    """
    func = registry.build(workload, decision, target).with_attr("global_symbol", "main")
    caches = Caches(target)
    sizes = [math.prod(int(extent) for extent in p.ty.shape) for p in func.params]
    steps = [p.name.rpartition("_")[0] for p in func.params]
    warm = [number for number, step in enumerate(steps) if step in TENSOR_STEPS]
    # The tensors, with the most recently written one last.
    for number in (len(sizes) - 1, *warm, 0):
        first = address_of(number) // LINE_BYTES
        caches.touch(range(first, first + -(-4 * sizes[number] // LINE_BYTES)))
    caches.reset()
    paths = trace(assembly(func, target), target.architecture, len(sizes), caches.touch)
    core = _cycles(paths, target)
    clock = 1e9 * target.clock_ghz
    l2 = LINE_BYTES * caches.from_l2 / target.l2_bytes_per_cycle
    memory = LINE_BYTES * caches.from_memory * target.clock_ghz / target.memory_gb_per_s
    # An in-order core stalls on cache misses; others compute meanwhile.
    total = core + l2 + memory if target.in_order else max(core, l2, memory)
    return Estimate(core, l2, memory, total / clock)


def assembly(func: tvm.tirx.PrimFunc, target: Target) -> str:
    """Return a function's assembly, compiled as for a network."""
    with lowering(tvm.IRModule.from_expr(func), target) as mod:
        built = tvm.tirx.build(mod, target=llvm_target(target))
    return str(built.inspect_source("asm"))


def _cycles(paths: dict[Path, int], target: Target) -> float:
    total = sum(count * len(path) for path, count in paths.items())
    chosen, seen = [], 0
    for path, count in sorted(paths.items(), key=lambda item: -item[1] * len(item[0])):
        if seen >= _COVERAGE * total:
            break
        chosen.append(path)
        seen += count * len(path)
    found = cycles([[str(i) for i in path] for path in chosen], target)
    known = sum(paths[path] * each for path, each in zip(chosen, found, strict=True))
    return known * total / seen
