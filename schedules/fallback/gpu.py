"""The fallback rule for GPUs: binds every block to threads, whatever it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
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
        if sch.get(block).name_hint in finished or binds_threads(sch.get(block)):
            continue
        if "O" in kinds or "S" not in kinds or len(sch.get_loops(block)) != len(kinds):
            _single_thread(sch, block)
        elif "R" in kinds:
            epilogue = _reduce(sch, block)
            finished |= {sch.get(epilogue).name_hint} if epilogue else set()
        else:
            bind_threads(sch, [_by_vectors(sch, block)], GROUP_SIZES[0])
    return sch


def binds_threads(block: s_tir.SBlock) -> bool:
    """Return whether an operator brings its own loops over threads, as ScatterND does."""
    found = False

    def visit(attribute: tirx.AttrStmt) -> None:
        nonlocal found
        found |= attribute.attr_key == "thread_extent"

    tvm_ffi.structural_walk(block.body, (tirx.AttrStmt, visit))
    return found


def _by_vectors(sch: s_tir.Schedule, block: SBlockRV) -> LoopRV:
    """Make the lanes of a vector of results a block's inner loop; return the loop over vectors."""
    kinds = iteration_types(sch, block)
    loops = list(zip(sch.get_loops(block), kinds, strict=True))
    *spatial, last = [loop for loop, kind in loops if kind == "S"]
    reduced = [loop for loop, kind in loops if kind == "R"]
    # Four lanes, as of float32: TVM supports no wider vectors of every type.
    outer, lane = sch.split(last, [None, math.gcd(extent(sch, last), lanes_of("float32"))])
    sch.reorder(*spatial, outer, *reduced, lane)
    _join_lanes(sch, block, lane)
    return sch.fuse(*spatial, outer)


def _join_lanes(sch: s_tir.Schedule, block: SBlockRV, lane: LoopRV) -> None:
    """Vectorise the lanes of a block, or unroll them where TVM's vectors are wrong in OpenCL C.

    Comparisons of vectors give -1 where TVM expects 1, bool has no vectors, and vectors of bytes
    from several places are put together as one integer.
    """
    if _has_bytes(sch.get(block)) or _has_conditions(sch.get(block)):
        sch.unroll(lane)
    else:
        sch.vectorize(lane)


def _has_bytes(block: s_tir.SBlock) -> bool:
    """Return whether a block reads or writes truth values or integers of one byte."""
    regions = (*block.reads, *block.writes)
    return any(str(region.source.dtype) in ("bool", "int8", "uint8") for region in regions)


def _has_conditions(block: s_tir.SBlock) -> bool:
    """Return whether a vector of a block's results needs conditions, or selects by one."""
    found = False
    *_, last = _spatial(block)

    def visit(value: Any) -> None:
        nonlocal found
        if isinstance(value, tirx.Select) or str(value.ty) == "bool":
            found |= any(var.same_as(last.var) for var in tirx.analysis.undefined_vars(value))

    tvm_ffi.structural_walk(block.body, (tvm.ir.Expr, visit))
    return found


def _reduce(sch: s_tir.Schedule, block: SBlockRV) -> SBlockRV | None:
    """Keep a vector of sums in registers; return the epilogue that is computed with it, if any.

    Loops over threads are merged, not inferred by `compute_at`: the bindings that it infers are
    often no quasi-affine functions of the divided loops, and such a block cannot be vectorised.
    """
    epilogue = _epilogue(sch, block)
    parts = [block, *([epilogue] if epilogue else [])]
    for index, region in enumerate(sch.get(block).writes):
        # What nobody reads is of use inside, as the maximum is where its index is wanted.
        if epilogue or (_is_temporary(sch, region) and not _readers(sch, block, region)):
            sch.set_scope(block, index, "local")
        else:
            parts.append(sch.cache_write(block, index, "local"))
    rows = sch.merge(*[_by_vectors(sch, part) for part in parts])
    bind_threads(sch, [rows], GROUP_SIZES[0])
    _, _, first, *_ = sch.get_loops(block)
    init = sch.decompose_reduction(block, first)
    *_, lane = sch.get_loops(init)
    _join_lanes(sch, init, lane)
    return epilogue


def _epilogue(sch: s_tir.Schedule, block: SBlockRV) -> SBlockRV | None:
    """Return the next block if only it reads what a reduction writes, each thread its own."""
    names = [sch.get(other).name_hint for other in blocks_of(sch)]
    after = names.index(sch.get(block).name_hint) + 1
    consumers = sch.get_consumers(block)
    if not consumers or [sch.get(other).name_hint for other in consumers] != [names[after]]:
        return None
    (consumer,) = consumers
    axes, written = sch.get(consumer).iter_vars, sch.get(block).writes
    own = (
        "R" not in iteration_types(sch, consumer)
        and _extents(axes) == _extents(_spatial(sch.get(block)))
        and all(_is_temporary(sch, region) for region in written)
        and all(_is_element(region, _spatial(sch.get(block))) for region in written)
        and all(
            _is_element(region, axes)
            for region in sch.get(consumer).reads
            if any(region.source.same_as(other.source) for other in written)
        )
    )
    return consumer if own else None


def _spatial(block: s_tir.SBlock) -> list[tirx.IterVar]:
    return [axis for axis in block.iter_vars if axis.iter_type == tirx.IterVar.DataPar]


def _extents(axes: Sequence[tirx.IterVar]) -> list[int]:
    return [int(axis.dom.extent) for axis in axes]


def _is_element(region: Any, axes: Sequence[tirx.IterVar]) -> bool:
    """Return whether a region is the one element that a block's axes are the indices of."""
    return len(region.region) == len(axes) and all(
        int(place.extent) == 1 and (place.min.same_as(axis.var) or int(axis.dom.extent) == 1)
        for place, axis in zip(region.region, axes, strict=True)
    )


def _is_temporary(sch: s_tir.Schedule, region: Any) -> bool:
    """Return whether a function keeps a buffer to itself."""
    allocated = sch.get(sch.get_sblock("root")).alloc_buffers
    return any(region.source.same_as(buffer) for buffer in allocated)


def _readers(sch: s_tir.Schedule, block: SBlockRV, region: Any) -> list[SBlockRV]:
    """Return the blocks that read one of the buffers that a block writes."""
    return [
        consumer
        for consumer in sch.get_consumers(block)
        if any(read.source.same_as(region.source) for read in sch.get(consumer).reads)
    ]


def _single_thread(sch: s_tir.Schedule, block: SBlockRV) -> None:
    """Run a block in one thread, since the order of its iterations must be kept."""
    loops = sch.get_loops(block)
    thread = sch.add_unit_loop(loops[0] if loops else block)
    sch.bind(sch.add_unit_loop(thread), "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
