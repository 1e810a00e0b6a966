"""Estimates a candidate's time from what it executes."""

from __future__ import annotations

import math

from mobilenet_tvm.compile.tuning.emulated.counts import Counts
from mobilenet_tvm.targets.target import Target


def seconds(counts: Counts, target: Target) -> float:
    """Estimate the time of what was counted.

    A core that reorders instructions overlaps the work of its ports and its caches, but never all
    of it: the square root of the sum of squares lies between the longest and the sum of all. On an
    x86 server this ranked decisions better than the maximum, other exponents, and latencies by
    llvm-mca (benchmarks/emulated_ranking.py). A core in order overlaps only what a block holds.

    Parameters
    ----------
    counts : Counts
        Of a layer.
    target : Target
        The core, its clock, and the bandwidths of its caches and memory.
    """
    l2 = counts.l2_bytes / target.l2_bytes_per_cycle
    memory = counts.memory_bytes * target.clock_ghz / target.memory_gb_per_s
    if target.in_order:
        cycles = max(counts.cycles, counts.chain) + l2 + memory
    else:
        cycles = max(math.hypot(*counts.busy.values(), l2, memory), counts.chain)
    return 1e-9 * cycles / target.clock_ghz
