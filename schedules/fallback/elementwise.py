"""Element-wise operators, layout changes and copies: vectors of the last axis, rows in parallel."""

from __future__ import annotations

import itertools
import math

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir.schedule import SBlockRV

from mobilenet_tvm.schedules.loops import (
    blocks_of,
    divisor_at_most,
    extent,
    inline_all_but,
    is_reduction,
    iterations,
)
from mobilenet_tvm.targets.target import Target

#: Starting the threads takes about as long as this many elements on one of them.
PARALLEL_ELEMENTS = 16 * 1024
#: Readings of an element for which it is stored instead of computed each time.
MIN_READS = 4
#: Elements of a vector that are worth one.
MIN_PIECE = 4
#: Most parts of a concatenation for each of which there is code.
MAX_PARTS = 8
#: Vectors of a row for which a last, shorter one costs little.
LONG_ROW = 16


def apply(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a function without reductions; return None for any other."""
    sch = s_tir.Schedule(func)
    if any(is_reduction(sch, block) for block in blocks_of(sch)):
        return None
    inline_all_but(sch, keep=computed_once(sch))
    for block in blocks_of(sch):
        vectorize_and_parallelize(sch, block, target)
    return sch


def computed_once(sch: s_tir.Schedule) -> set[str]:
    """Return the names of blocks that are cheaper to store than to compute for each reader.

    They compute something, and a reader has several times as many elements: the rows of a picture
    that is resized in both directions.
    """
    kept = set()
    for block in blocks_of(sch):
        body = sch.get(block).body
        if not isinstance(body, tirx.BufferStore) or isinstance(body.value, TensorLoad):
            continue
        readers = [iterations(sch, reader) for reader in sch.get_consumers(block)]
        if max(readers, default=0) >= MIN_READS * iterations(sch, block) >= PARALLEL_ELEMENTS:
            kept.add(sch.get(block).name_hint)
    return kept


def vectorize_and_parallelize(sch: s_tir.Schedule, block: SBlockRV, target: Target) -> None:
    """Vectorise a block's last axis, and parallelise the others if there is enough work."""
    loops = sch.get_loops(block)
    if not loops:
        return
    elements = iterations(sch, block)
    *outer, last = loops
    size, whole = extent(sch, last), lanes_of(sch, block, target)
    parts = _parts(sch, block, size)
    every_nth = _takes_every_nth(sch, block)
    piece = math.gcd(*parts)
    lanes = divisor_at_most(piece if piece >= MIN_PIECE else size, 2 * whole)
    ragged = len(parts) == 1 and size >= LONG_ROW * whole and 2 * lanes % whole != 0
    if outer and len(parts) <= MAX_PARTS and (len(parts) > 1 or every_nth):
        rows, vector = sch.fuse(*outer), 1
        if not every_nth:
            vector = _lanes(piece, whole)
            last, lane = sch.split(last, [None, vector])
            sch.vectorize(lane)
        if len(parts) > 1:
            sch.loop_partition(last, [part // vector for part in parts[:-1]])
    elif outer and ragged and size % whole and not _divides(sch, block):
        # No divisor fills vectors: 21x520x520 resized took 4.1 ms in vectors of 26, and takes 2.3
        # in vectors of 16 and a last one of 8.
        rows = sch.fuse(*outer)
        main, rest = sch.loop_partition(last, [size // whole * whole])
        sch.vectorize(sch.split(main, [None, whole])[1])
        sch.vectorize(rest)
    else:
        tiles, vector = sch.split(last, [None, whole if ragged and size % whole == 0 else lanes])
        sch.vectorize(vector)
        rows = sch.fuse(*outer, tiles)
    if elements >= PARALLEL_ELEMENTS:
        sch.parallel(rows)


def _parts(sch: s_tir.Schedule, block: SBlockRV, size: int) -> list[int]:
    """Return the sizes of the parts of a concatenation along the last axis, or the whole.

    In a loop over one of them there are no conditions. Three times 22x22x96 took 37 us where each
    vector had one, and takes 16; four times 160x160x24 took 5.0 ms where each element had one.
    """
    last = sch.get(block).iter_vars[-1].var
    bounds = {0, size}

    def visit(node: tvm.ir.Expr) -> None:
        if isinstance(node, tirx.LT | tirx.LE | tirx.GT | tirx.GE):
            sides = [node.a, node.b]
            numbers = [int(side) for side in sides if isinstance(side, tirx.IntImm)]
            if numbers and any(side.same_as(last) for side in sides):
                bounds.update(number for number in numbers if 0 < number < size)

    tvm_ffi.structural_walk(sch.get(block).body, (tvm.ir.Expr, visit))
    parts = [end - start for start, end in itertools.pairwise(sorted(bounds))]
    return parts if min(parts) >= MIN_PIECE else [size]


def _lanes(size: int, whole: int) -> int:
    """Return the length of the vectors of a part: one or two registers if that divides it."""
    found = (lanes for lanes in (2 * whole, whole) if size % lanes == 0)
    return next(found, divisor_at_most(size, 2 * whole))


def _takes_every_nth(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Return whether a block reads every second to fourth element along its last axis.

    LLVM vectorises such a loop with whole loads that it shuffles, but TVM with single ones: to
    divide the channels of 22x22x48 twice took 7.2 us, and takes 3.4.
    """
    last = sch.get(block).iter_vars[-1].var
    found = []

    def visit(node: tvm.ir.Expr) -> None:
        if isinstance(node, tirx.Mul) and isinstance(node.b, tirx.IntImm):
            found.append(node.a.same_as(last) and 2 <= int(node.b) <= 4)

    tvm_ffi.structural_walk(sch.get(block).body, (tvm.ir.Expr, visit))
    return any(found)


def _divides(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Return whether a block divides indices, so that only some vectors are known to be whole."""
    found = []
    tvm_ffi.structural_walk(
        sch.get(block).body,
        (tvm.ir.Expr, lambda node: found.append(isinstance(node, tirx.FloorDiv | tirx.FloorMod))),
    )
    return any(found)


def lanes_of(sch: s_tir.Schedule, block: SBlockRV, target: Target) -> int:
    """Return how many values of the widest type that a block accesses fit a vector register."""
    touched = sch.get(block)
    types = {str(region.source.dtype) for region in (*touched.reads, *touched.writes)}
    return min(map(target.lanes_of, types))
