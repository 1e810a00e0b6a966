"""What all schedules share: finding blocks, choosing tiles, and the fallback chain."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from mobilenet_tvm.targets.target import Target

#: A schedule returns None for a function that is not its own.
Rule = Callable[[tirx.PrimFunc, Target], s_tir.Schedule | None]


def blocks_of(sch: s_tir.Schedule) -> list[SBlockRV]:
    """Return the leaf blocks of a function in the order in which they run."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def iteration_types(sch: s_tir.Schedule, block: SBlockRV) -> str:
    """Return a letter per axis of a block: 'S' for spatial, 'R' for reduction."""
    kinds = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}
    return "".join(kinds.get(int(axis.iter_type), "O") for axis in sch.get(block).iter_vars)


def is_reduction(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Tell whether a block sums (or otherwise reduces) over an axis."""
    return "R" in iteration_types(sch, block)


def extent(sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV) -> int:
    """Return the static number of iterations of a loop."""
    return int(sch.get(loop).extent)


def divisor_at_most(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit` (at least 1)."""
    return next(d for d in range(min(number, max(limit, 1)), 0, -1) if number % d == 0)


def inline_all_but(sch: s_tir.Schedule, keep: set[str]) -> None:
    """Inline every element-wise block, except the named ones and the one that writes the output."""
    for block in blocks_of(sch):
        name = sch.get(block).name_hint
        if name in keep or is_reduction(sch, block) or sch.get_consumers(block) == []:
            continue
        try:
            sch.compute_inline(block)
        except tvm.s_tir.ScheduleError:
            continue
