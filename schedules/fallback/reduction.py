"""Reductions other than convolutions: pooling, means, dense layers, softmax."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from mobilenet_tvm.schedules.fallback.elementwise import (
    PARALLEL_ELEMENTS,
    computed_once,
    lanes_of,
    vectorize_and_parallelize,
)
from mobilenet_tvm.schedules.loops import (
    blocks_of,
    divisor_at_most,
    extent,
    inline_all_but,
    is_reduction,
    iteration_types,
)
from mobilenet_tvm.targets.target import Target


def apply(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule:
    """Schedule any function block by block; as the last rule, it accepts every function."""
    sch = s_tir.Schedule(func)
    inline_all_but(sch, keep=computed_once(sch))
    for block in blocks_of(sch):
        if is_reduction(sch, block):
            _reduce(sch, block, target)
        elif "O" not in iteration_types(sch, block):
            vectorize_and_parallelize(sch, block, target)
    return sch


def _reduce(sch: s_tir.Schedule, block: SBlockRV, target: Target) -> None:
    """Keep a vector of outputs in registers during the reduction."""
    loops = sch.get_loops(block)
    kinds = iteration_types(sch, block)
    if len(loops) != len(kinds):
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    work = 1
    for loop in loops:
        work *= extent(sch, loop)
    if not spatial:
        return
    lanes = divisor_at_most(extent(sch, spatial[-1]), 2 * lanes_of(sch, block, target))
    outer, vector = sch.split(spatial[-1], [None, lanes])
    sch.reorder(*spatial[:-1], outer, *reduced, vector)
    rows = sch.fuse(*spatial[:-1], outer)
    if work >= PARALLEL_ELEMENTS:
        sch.parallel(rows)
    sch.vectorize(vector)
    if reduced:
        init = sch.decompose_reduction(block, reduced[0])
        sch.vectorize(sch.get_loops(init)[-1])
