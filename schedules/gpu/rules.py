"""What has no schedule of its own on a GPU: each block gets threads, whatever it computes."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from mobilenet_tvm.schedules.base import (
    blocks_of,
    divisor_at_most,
    extent,
    inline_all_but,
    iteration_types,
)
from mobilenet_tvm.schedules.gpu.threads import GROUPS, LANES, bind_threads
from mobilenet_tvm.targets.target import Target


def apply(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule:  # noqa: ARG001
    """Schedule any function block by block, a kernel for each: a thread per vector of outputs.

    Parameters
    ----------
    func : PrimFunc
        Whatever TVM has fused.
    target : Target
        The same code serves all.
    """
    sch = s_tir.Schedule(func)
    inline_all_but(sch, keep=set())
    for block in blocks_of(sch):
        _schedule(sch, block)
    return sch


def _schedule(sch: s_tir.Schedule, block: SBlockRV) -> None:
    loops, kinds = sch.get_loops(block), iteration_types(sch, block)
    if not loops or len(loops) != len(kinds) or "O" in kinds or "S" not in kinds:
        _alone(sch, block, loops)
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    outer, lane = sch.split(spatial[-1], [None, divisor_at_most(extent(sch, spatial[-1]), LANES)])
    sch.reorder(*spatial[:-1], outer, *reduced, lane)
    bind_threads(sch, [*spatial[:-1], outer], GROUPS[0])
    if reduced:
        # The sums stay where the thread is.
        total = sch.cache_write(block, 0, "local")
        sch.reverse_compute_at(total, outer_of(sch, block, len(reduced)))
        sch.vectorize(sch.get_loops(total)[-1])
        init = sch.decompose_reduction(block, reduced[0])
        sch.vectorize(sch.get_loops(init)[-1])
    sch.vectorize(lane)


def outer_of(sch: s_tir.Schedule, block: SBlockRV, reduced: int) -> LoopRV:
    """Return the loop over a group's threads: what is inside are the reduction and a vector."""
    return sch.get_loops(block)[-reduced - 2]


def _alone(sch: s_tir.Schedule, block: SBlockRV, loops: list[LoopRV]) -> None:
    """Let one thread do all: an order that is not known must be kept."""
    first = loops[0] if loops else sch.add_unit_loop(block)
    if loops:
        first = sch.add_unit_loop(first)
    threads = sch.add_unit_loop(first)
    sch.bind(threads, "blockIdx.x")
    sch.bind(first, "threadIdx.x")
