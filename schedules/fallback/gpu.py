"""The fallback rule for GPUs: binds every block to threads, whatever it computes."""

from __future__ import annotations

import math

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from mobilenet_tvm.schedules.gpu.threads import GROUP_SIZES, bind_threads, lanes_of
from mobilenet_tvm.schedules.loops import blocks_of, extent, inline_all_but, iteration_types
from mobilenet_tvm.targets.target import Target


def apply(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule:  # noqa: ARG001
    """Schedule any function with one thread per vector of results; reductions take their epilogue.

    Parameters
    ----------
    func : PrimFunc
        Any function that TVM has fused.
    target : Target
        Unused: the same schedule serves all GPUs.
    """
    sch = s_tir.Schedule(func)
    inline_all_but(sch, keep=set())
    finished: set[str] = set()
    for block in blocks_of(sch):
        kinds = iteration_types(sch, block)
        if sch.get(block).name_hint in finished:
            continue
        if "O" in kinds or "S" not in kinds or len(sch.get_loops(block)) != len(kinds):
            _single_thread(sch, block)
        elif "R" in kinds:
            finished.add(sch.get(_reduce(sch, block, kinds)).name_hint)
        else:
            _bind(sch, block)
    return sch


def _bind(sch: s_tir.Schedule, block: SBlockRV) -> LoopRV:
    """Bind each vector of an element-wise block to a thread; return the loop over threads."""
    *loops, last = sch.get_loops(block)
    # Four lanes, as of float32: TVM supports no wider vectors of every type.
    lanes = math.gcd(extent(sch, last), lanes_of("float32"))
    outer, lane = sch.split(last, [None, lanes])
    threads = bind_threads(sch, [*loops, outer], GROUP_SIZES[0])
    sch.vectorize(lane)
    return threads


def _reduce(sch: s_tir.Schedule, block: SBlockRV, kinds: str) -> SBlockRV:
    """Keep a vector of sums in registers; return the block that stores them."""
    loops = sch.get_loops(block)
    shape = [extent(sch, loop) for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    consumers = sch.get_consumers(block)
    if len(consumers) == 1 and _is_map(sch, consumers[0], shape):
        (stored,) = consumers
        sch.set_scope(block, 0, "local")
    else:
        stored = sch.cache_write(block, 0, "local")
    sch.compute_at(block, _bind(sch, stored), preserve_unit_loops=True)
    loops = sch.get_loops(block)[-len(kinds) :]
    vector = loops[kinds.rindex("S")]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    sch.reorder(*reduced, vector)
    sch.vectorize(vector)
    init = sch.decompose_reduction(block, reduced[0])
    sch.vectorize(sch.get_loops(init)[-1])
    return stored


def _is_map(sch: s_tir.Schedule, block: SBlockRV, shape: list[int]) -> bool:
    """Return whether a block has one iteration for each element of a shape."""
    loops = sch.get_loops(block)
    only = set(iteration_types(sch, block)) == {"S"}
    return only and [extent(sch, loop) for loop in loops] == shape


def _single_thread(sch: s_tir.Schedule, block: SBlockRV) -> None:
    """Run a block in one thread, since the order of its iterations must be kept."""
    loops = sch.get_loops(block)
    thread = sch.add_unit_loop(loops[0] if loops else block)
    sch.bind(sch.add_unit_loop(thread), "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
