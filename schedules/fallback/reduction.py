"""Reductions other than convolutions: pooling, means, dense layers, softmax."""

from __future__ import annotations

from typing import Any

import tvm
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
    iterations,
)
from mobilenet_tvm.targets.target import Target

#: The axes of a window over pictures: batch, rows, columns, channels, and two of the window.
WINDOW = "SSSSRR"
#: Rows of a band.
BAND = 8


def apply(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule:
    """Schedule any function block by block; as the last rule, it accepts every function."""
    sch = s_tir.Schedule(func)
    pads = {sch.get(block).name_hint for block in blocks_of(sch) if _pads_a_window(sch, block)}
    inline_all_but(sch, keep=computed_once(sch) | pads)
    for block in blocks_of(sch):
        if sch.get(block).name_hint in pads:
            continue  # computed with its reader
        padded = [pad for pad in sch.get_producers(block) if sch.get(pad).name_hint in pads]
        if padded:
            _slide(sch, block, padded[0], target)
        elif is_reduction(sch, block):
            _reduce(sch, block, target)
        elif "O" not in iteration_types(sch, block):
            vectorize_and_parallelize(sch, block, target)
    return sch


def _pads_a_window(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Return whether a block pads pictures for a window that slides over them."""
    readers = [iteration_types(sch, reader) for reader in sch.get_consumers(block)]
    body = sch.get(block).body
    padding = isinstance(body, tirx.BufferStore) and _is_conditional(body.value)
    return padding and readers == [WINDOW] and iteration_types(sch, block) == WINDOW[:4]


def _is_conditional(value: Any) -> bool:
    return isinstance(value, tvm.ir.Call) and value.op.same_as(tvm.ir.Op.get("prim.if_then_else"))


def _slide(sch: s_tir.Schedule, block: SBlockRV, pad: SBlockRV, target: Target) -> None:
    """Compute rows of outputs in parallel, a vector of channels at a time, from padded rows.

    Without the copy, each tap of each output has conditions: 3x3 over 176x176x24 took 1153 us.
    """
    batch, y, x, channels, *taps = sch.get_loops(block)
    work = iterations(sch, block)
    lanes = divisor_at_most(extent(sch, channels), 2 * lanes_of(sch, block, target))
    outer, vector = sch.split(channels, [None, lanes])
    sch.reorder(batch, y, x, outer, *taps, vector)
    bands, _ = sch.split(y, [None, divisor_at_most(extent(sch, y), BAND)])
    bands = sch.fuse(batch, bands)
    if work >= PARALLEL_ELEMENTS:
        sch.parallel(bands)
    sch.vectorize(vector)
    sch.compute_at(pad, bands)
    copied = sch.get_loops(pad)[-1]
    sch.vectorize(sch.split(copied, [None, divisor_at_most(extent(sch, copied), lanes)])[1])
    for tap in taps:
        sch.unroll(tap)
    init = sch.decompose_reduction(block, taps[0])
    sch.vectorize(sch.get_loops(init)[-1])


def _reduce(sch: s_tir.Schedule, block: SBlockRV, target: Target) -> None:
    """Keep a vector of outputs in registers during the reduction."""
    loops = sch.get_loops(block)
    kinds = iteration_types(sch, block)
    if len(loops) != len(kinds):
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    work = iterations(sch, block)
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
