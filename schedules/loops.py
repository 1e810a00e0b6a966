"""Helpers for scheduling: blocks and loops of a function, and divisors of their extents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV


def blocks_of(sch: s_tir.Schedule) -> list[SBlockRV]:
    """Return the leaf blocks of a function in execution order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def iteration_types(sch: s_tir.Schedule, block: SBlockRV) -> str:
    """Return a letter per axis of a block: 'S' for spatial, 'R' for reduction."""
    kinds = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}
    return "".join(kinds.get(int(axis.iter_type), "O") for axis in sch.get(block).iter_vars)


def is_reduction(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Return whether a block sums (or otherwise reduces) over an axis."""
    return "R" in iteration_types(sch, block)


def extent(sch: s_tir.Schedule, loop: LoopRV) -> int:
    """Return the static number of iterations of a loop."""
    return int(sch.get(loop).extent)


def iterations(sch: s_tir.Schedule, block: SBlockRV) -> int:
    """Return how often a block is executed."""
    return math.prod(extent(sch, loop) for loop in sch.get_loops(block))


def divisors(number: int, limit: int) -> list[int]:
    """Return the divisors of a number that are at most `limit`, ascending."""
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]


def divisor_at_most(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit` (at least 1)."""
    return next(d for d in range(min(number, max(limit, 1)), 0, -1) if number % d == 0)


def inline_all_but(sch: s_tir.Schedule, keep: set[str]) -> None:
    """Inline all element-wise blocks except the named ones and the output block."""
    for block in blocks_of(sch):
        name = sch.get(block).name_hint
        if name in keep or is_reduction(sch, block) or sch.get_consumers(block) == []:
            continue
        try:
            sch.compute_inline(block)
        except tvm.s_tir.ScheduleError:
            continue


def replace_body(
    func: tirx.PrimFunc, loop_var: tirx.Var, change: Callable[[Any], Any]
) -> tirx.PrimFunc:
    """Return a function with the body of one loop replaced; it cannot be scheduled further.

    Parameters
    ----------
    func : PrimFunc
        A scheduled function.
    loop_var : Var
        The loop's variable.
    change : callable
        Maps the loop's body to the new one.
    """

    def changed(stmt: Any) -> Any:
        if isinstance(stmt, tirx.SeqStmt):
            return tirx.SeqStmt([changed(part) for part in stmt.seq])
        if not isinstance(stmt, tirx.For):
            return stmt
        body = change(stmt.body) if stmt.loop_var.same_as(loop_var) else changed(stmt.body)
        parts = (stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding)
        return tirx.For(*parts, stmt.annotations)

    return with_body(func, changed(func.body.block.body))


def with_body(
    func: tirx.PrimFunc, body: tirx.Stmt, buffers: Sequence[Any] | None = None
) -> tirx.PrimFunc:
    """Return a function with another body of its outermost block; it cannot be scheduled.

    Parameters
    ----------
    func : PrimFunc
        A function.
    body : Stmt
        The new body.
    buffers : sequence of Var, optional
        What the new body allocates; by default the same as the old one.
    """
    root = func.body.block
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        body,
        root.init,
        root.alloc_buffers if buffers is None else buffers,
        root.match_buffers,
        root.annotations,
    )
    realized = s_tir.SBlockRealize([], tirx.const(True, "bool"), block)
    return tirx.PrimFunc(func.params, realized, func.ret_type, attrs=func.attrs)
